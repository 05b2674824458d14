import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zoo.causal import Context
from zoo.layers import (
    ChannelNorm,
    ConditionalBias,
    GatedActivation,
    GatedBlock,
    MapBias,
    MaskedConv2d,
    ResidualBlock,
    ShiftDown,
    VectorBias,
    VerticalConv2d,
)


def textbook_mask(mask_type, size):
    mask = torch.zeros(size, size)
    mask[: size // 2] = 1
    mask[size // 2, : size // 2] = 1
    if mask_type == "B":
        mask[size // 2, size // 2] = 1
    return mask


@pytest.mark.parametrize("mask_type", ["A", "B"])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_masked_convolution_is_the_textbooks(mask_type, size):
    if mask_type == "A" and size == 1:
        with pytest.raises(ValueError, match="sees nothing"):
            MaskedConv2d("A", 2, 3, 1)
        return
    layer = MaskedConv2d(mask_type, 2, 3, size).double()
    nn.init.normal_(layer.weight)  # the dead weights too: the mask must kill them
    x = torch.randn(2, 2, 9, 8, dtype=torch.float64)
    expected = F.conv2d(x, layer.weight * textbook_mask(mask_type, size), layer.bias, padding=size // 2)
    torch.testing.assert_close(layer(x), expected)
    layer(x).sum().backward()
    assert (layer.weight.grad[..., textbook_mask(mask_type, size) == 0] == 0).all()


def test_loads_a_textbook_checkpoint_with_its_mask():
    textbook = nn.Conv2d(1, 4, 5, padding=2)
    textbook.register_buffer("mask", textbook_mask("A", 5))
    layer = MaskedConv2d("A", 1, 4, 5)
    layer.load_state_dict(textbook.state_dict())
    assert torch.equal(layer.weight, textbook.weight)


def test_dead_weights_start_at_zero():
    weight = MaskedConv2d("A", 3, 4, 5).weight
    assert (weight[..., textbook_mask("A", 5) == 0] == 0).all()
    assert (weight[..., textbook_mask("A", 5) == 1] != 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_type": "C"}, "hides the centre"),
        ({"kernel_size": 4}, "must be odd"),
        ({"stride": 2}, "stride 1"),
        ({"padding": 0}, "keeps the image's size"),
        ({"padding_mode": "circular"}, "zeros"),
    ],
)
def test_refuses_what_is_not_causal(arguments, message):
    with pytest.raises(ValueError, match=message):
        MaskedConv2d(**{"mask_type": "A", "in_channels": 1, "out_channels": 1, "kernel_size": 3} | arguments)


def test_conditional_bias_adds_its_class_everywhere():
    layer = ConditionalBias(3, 2)
    nn.init.normal_(layer.weight)
    x = torch.randn(2, 2, 4, 5)
    y = layer(x, Context(labels=torch.tensor([2, 0])))
    for image, label in enumerate((2, 0)):
        for channel in range(2):
            expected = x[image, channel] + layer.weight[label, channel]
            torch.testing.assert_close(y[image, channel], expected)
    with pytest.raises(ValueError, match="no labels"):
        layer(x)


def test_channel_norm_treats_every_pixel_alone():
    layer = ChannelNorm(4).double()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x), expected)


def test_every_convolution_of_a_conditional_block_has_a_bias_of_the_class():
    block = ResidualBlock(4, num_classes=10)
    convolutions = sum(isinstance(part, MaskedConv2d) for part in block.modules())
    biases = sum(isinstance(part, ConditionalBias) for part in block.modules())
    assert convolutions == biases == 1


def test_no_class_adds_nothing():
    layer = ConditionalBias(3, 2)
    nn.init.normal_(layer.weight)
    x = torch.randn(3, 2, 4, 5)
    y = layer(x, Context(labels=torch.tensor([-1, 2, -1])))
    assert torch.equal(y[[0, 2]], x[[0, 2]])
    torch.testing.assert_close(y[1], x[1] + layer.weight[2, :, None, None])


def test_a_vector_adds_the_same_everywhere():
    layer = VectorBias(3, 2)
    nn.init.normal_(layer.weight)
    x, h = torch.randn(4, 2, 5, 6), torch.randn(4, 3)
    expected = x + torch.einsum("cd,bd->bc", layer.weight, h)[:, :, None, None]
    torch.testing.assert_close(layer(x, Context(vectors=h)), expected)
    with pytest.raises(ValueError, match="no vectors"):
        layer(x, Context(labels=torch.zeros(4)))


def test_a_map_adds_its_own_at_each_pixel():
    layer = MapBias(3, 2)
    nn.init.normal_(layer.weight)
    x, s = torch.randn(4, 2, 5, 6), torch.randn(4, 3, 5, 6)
    expected = x + torch.einsum("ck,bkij->bcij", layer.weight[:, :, 0, 0], s)
    torch.testing.assert_close(layer(x, Context(maps=s)), expected)
    with pytest.raises(ValueError, match="no maps"):
        layer(x)


@pytest.mark.parametrize("kernel_size", [1, 5, (1, 5)])
@pytest.mark.parametrize("mask_type", ["A", "B"])
def test_colors_are_ordered_at_the_centre(mask_type, kernel_size):
    layer = MaskedConv2d(mask_type, 6, 9, kernel_size, colors=3).double()
    nn.init.normal_(layer.weight)
    rows, columns = layer.kernel_size
    mask = torch.zeros(9, 6, rows, columns)
    for out in range(9):
        for source in range(6):
            for index in range(rows * columns):
                later = index - rows * columns // 2
                sees = source // 2 < out // 3 if mask_type == "A" else source // 2 <= out // 3
                mask[out, source, index // columns, index % columns] = later < 0 or (later == 0 and sees)
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    expected = F.conv2d(x, layer.weight * mask, layer.bias, padding=(rows // 2, columns // 2))
    torch.testing.assert_close(layer(x), expected)
    assert (0, 0) in layer.taps
    assert (MaskedConv2d(mask_type, 6, 9, kernel_size, colors=3).weight[mask == 0] == 0).all()


@pytest.mark.parametrize("arguments", [{"colors": 4}, {"colors": 0}, {"colors": 3, "groups": 3}])
def test_colors_divide_the_channels(arguments):
    with pytest.raises(ValueError, match="must be multiples of colors"):
        MaskedConv2d("A", 6, 9, 3, **arguments)


@pytest.mark.parametrize(("kernel_size", "dilation"), [((2, 3), 1), ((3, 5), 2), (7, (3, 1)), ((1, 1), 1)])
def test_a_vertical_convolution_sees_whole_rows_up_to_its_own(kernel_size, dilation):
    layer = VerticalConv2d(2, 3, kernel_size, dilation).double()
    rows, columns = layer.kernel_size
    (down, right), x = layer.dilation, torch.randn(2, 2, 9, 8, dtype=torch.float64)
    expected = torch.zeros(2, 3, 9, 8, dtype=torch.float64) + layer.bias[:, None, None]
    padded = F.pad(x, (9, 9, 9, 9))
    for u in range(rows):
        for v in range(columns):
            up, left = down * (rows - 1 - u), right * (columns // 2 - v)
            shifted = padded[:, :, 9 - up : 18 - up, 9 - left : 17 - left]
            expected += torch.einsum("oc,bcij->boij", layer.weight[:, :, u, v], shifted)
    torch.testing.assert_close(layer(x), expected)
    with pytest.raises(ValueError, match="must be odd"):
        VerticalConv2d(1, 1, (2, 4))


def test_shift_down():
    x = torch.randn(2, 3, 4, 5)
    y = ShiftDown()(x)
    assert torch.equal(y[:, :, 1:], x[:, :, :-1])
    assert (y[:, :, 0] == 0).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_color_has_its_own_gate(layout):
    x = torch.randn(2, 12, 4, 5, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    torch.testing.assert_close(GatedActivation()(x), torch.tanh(x[:, :6]) * torch.sigmoid(x[:, 6:]))
    by_color = GatedActivation(3)(x)
    for color in range(3):
        own = x[:, 4 * color : 4 * color + 4]
        expected = torch.tanh(own[:, :2]) * torch.sigmoid(own[:, 2:])
        torch.testing.assert_close(by_color[:, 2 * color : 2 * color + 2], expected)
    assert torch.autograd.gradcheck(GatedActivation(3), (x,))


def test_a_fresh_vertical_stack_does_not_fade():
    torch.manual_seed(0)
    v = before = torch.randn(2, 32, 28, 28)
    h = s = torch.zeros(2, 8, 28, 28)
    for _ in range(6):
        v, h, s = GatedBlock(8, vertical_channels=32)(v, h, s)
    assert before.std() / 10 < v.std() < before.std()


def test_a_gated_block_is_its_formula():
    torch.manual_seed(0)
    block = GatedBlock(4, vertical_channels=3, num_classes=5).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    v, h, s = (torch.randn(2, channels, 6, 5, dtype=torch.float64) for channels in (3, 4, 4))
    context = Context(labels=torch.tensor([4, 1]))

    def gate(x):
        a, b = x.chunk(2, 1)
        return torch.tanh(a) * torch.sigmoid(b)

    def bias(layer):
        return layer.weight[context.labels][:, :, None, None]

    g_v = gate(block.vertical[0](v) + bias(block.vertical[1]))
    shifted = F.pad(g_v, (0, 0, 1, 0))[:, :, :-1]
    joined = torch.einsum("oc,bcij->boij", block.join.weight[:, :, 0, 0], shifted)
    g_h = gate(block.horizontal[0](h) + bias(block.horizontal[1]) + joined)
    residual, skip = block.out(g_h).chunk(2, 1)
    after = block(v, h, s, context)
    for now, expected in zip(after, (g_v, h + residual, s + skip), strict=True):
        torch.testing.assert_close(now, expected)


def test_channels_are_normalized_color_by_color():
    x = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    y = ChannelNorm(6, colors=3).double()(x)
    for first in (0, 2, 4):
        torch.testing.assert_close(y[:, first : first + 2], ChannelNorm(2).double()(x[:, first : first + 2]))
