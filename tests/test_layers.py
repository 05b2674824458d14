import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zoo.causal import Context
from zoo.layers import ChannelNorm, ConditionalBias, MaskedConv2d, ResidualBlock


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
