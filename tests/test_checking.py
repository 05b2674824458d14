import pytest
import torch
from torch import nn

import zoo
from zoo.causal import Sequential
from zoo.checking import check, receptive_field
from zoo.layers import GatedBlock, MaskedConv2d
from zoo.registry import LAYERS, MODELS


@pytest.mark.parametrize("name", LAYERS.names())
def test_every_registered_layer_passes(name):
    builder = LAYERS.get(name)
    report = check(builder(**builder.check_with), layer=True)
    assert report.causal
    assert report.verified
    assert report.leaks == []


@pytest.mark.parametrize("name", MODELS.names())
def test_every_registered_model_passes(name):
    builder = MODELS.get(name)
    report = check(builder(**getattr(builder, "check_with", {})))
    assert report.causal
    assert report.verified
    assert report.schedule is not None


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize("conditions", [{}, {"num_classes": 3, "vector_size": 2, "map_channels": 2}])
def test_every_model_orders_its_channels(name, conditions):
    torch.manual_seed(0)
    model = zoo.create(name, channels=24, layers=2, image_shape=(3, 7, 7), **conditions)
    report = check(model)
    assert report.causal
    assert report.verified
    # G sees R and B sees both, at their own pixel.
    assert not [offset for offset in report.blind_spot if offset[:2] == (0, 0)]


def test_the_gated_model_has_no_blind_spot_and_the_plain_one_does():
    gated, plain = (check(zoo.create(f"{kind}pixelcnn", channels=4, layers=6)) for kind in ("gated-", ""))
    assert gated.blind_spot == []
    assert (gated.schedule, gated.slope) == ("wavefront", 10)
    assert (-1, 4, 0) in plain.blind_spot
    assert plain.schedule == "wavefront"
    # The pixel that the best-known library's gated model cannot see, (13, 18) from (14, 14), at any depth.
    model = zoo.create("gated-pixelcnn", channels=4, layers=1).double()
    x = torch.rand(1, 1, 28, 28, dtype=torch.float64)
    flipped = x.clone()
    flipped[0, 0, 13, 18] = 1 - x[0, 0, 13, 18]
    with torch.no_grad():
        changed = (model(flipped) - model(x))[0, 0]
    assert changed[14, 14] != 0
    assert (changed.flatten()[: 13 * 28 + 19] == 0).all()


@pytest.mark.parametrize("name", zoo.list_models("*mnist*"))
def test_every_trained_model_passes(name):
    report = check(zoo.load(name))
    assert report.causal
    assert report.verified


class Textbook(nn.Conv2d):
    """A student's masked convolution, which knows nothing of the zoo; ``wide`` is his mistake."""

    def __init__(self, mask_type, channels, out, size, wide=0):
        super().__init__(channels, out, size, padding=size // 2)
        mask = torch.ones(size, size)
        mask[size // 2, size // 2 + (mask_type == "B") + wide :] = 0
        mask[size // 2 + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


def student(first, *rest):
    return nn.Sequential(first, nn.ReLU(), *rest, nn.ReLU(), nn.Conv2d(4, 1, 1))


def test_a_correct_student_passes():
    report = check(student(Textbook("A", 1, 4, 7), Textbook("B", 4, 4, 3)), (1, 12, 12))
    assert report.causal
    assert report.verified is None
    assert "does not run over fronts" in report.notes[0]


@pytest.mark.parametrize(
    ("module", "leak"),
    [
        (student(Textbook("B", 1, 4, 7), Textbook("B", 4, 4, 3)), (0, 0, 0)),
        (student(Textbook("A", 1, 4, 7), nn.Conv2d(4, 4, 3, padding=1)), (1, -1, 0)),
        (student(Textbook("A", 1, 4, 7), nn.BatchNorm2d(4), Textbook("B", 4, 4, 3)), (3, 2, 0)),
        (student(Textbook("A", 1, 4, 7), Textbook("B", 4, 4, 3, wide=1)), (0, 0, 0)),
        (student(Textbook("A", 1, 4, 7, wide=2), Textbook("B", 4, 4, 3)), (0, 1, 0)),
        (Sequential(MaskedConv2d("B", 1, 4, 7), MaskedConv2d("B", 4, 1, 3)), (0, 0, 0)),
        (Sequential(MaskedConv2d("A", 1, 4, 7), nn.BatchNorm2d(4), MaskedConv2d("B", 4, 1, 3)), (3, 2, 0)),
        (Sequential(MaskedConv2d("A", 1, 4, 7), nn.Conv2d(4, 1, 3, padding=1)), (1, 0, 0)),
    ],
)
def test_a_leak_is_named(module, leak):
    report = check(module, (1, 12, 12))
    assert not report.causal
    assert leak in report.leaks


def test_batch_norm_leaks_in_training_only():
    report = check(student(Textbook("A", 1, 4, 7), nn.BatchNorm2d(4)), (1, 12, 12))
    assert report.notes[0] == "leaks in training mode"
    assert "BatchNorm" in report.notes[1]


class Hidden(nn.Module):
    """Leaks one pixel through a comparison, which has no gradient."""

    def forward(self, x):
        return torch.roll(x, 1, -1) * 0.1 + (torch.roll(x, -2, -1) > 0.5).to(x.dtype)


def test_a_leak_without_a_gradient_is_named_too():
    report = check(Hidden(), (1, 8, 8))
    assert (0, 2, 0) in report.leaks


class Pair(nn.Module):
    """Leaks two later pixels together: neither alone makes a difference."""

    def forward(self, x):
        later = torch.roll(x, -1, -1), torch.roll(x, -2, -1)
        return torch.roll(x, 1, -1) * 0.1 + ((later[0] > 0.7) & (later[1] > 0.7)).to(x.dtype)


class Table(nn.Module):
    """Looks its input up, so that only bits tell, and mixes everything."""

    def __init__(self):
        super().__init__()
        self.table, self.conv = nn.Embedding(2, 3), nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x):
        return self.conv(self.table(x[:, 0].long()).movedim(-1, 1))


@pytest.mark.parametrize("module", [Pair(), Table()])
def test_a_leak_that_only_some_values_show_is_found(module):
    assert not check(module, (1, 8, 8)).causal


def test_a_frozen_mask_is_a_mask():
    layer = Textbook("A", 1, 4, 3)
    layer.mask = nn.Parameter(layer._buffers.pop("mask"), requires_grad=False)
    assert check(layer).causal


def test_a_mask_that_training_forgets_is_told():
    layer = nn.Conv2d(1, 1, 3, padding=1)
    with torch.no_grad():
        layer.weight.flatten()[4:] = 0
    report = check(layer)
    assert not report.causal
    assert any("once its weights have moved" in note for note in report.notes)


def test_a_counter_is_no_leak():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = Textbook("A", 1, 1, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.conv(x) + self.calls

    assert check(Counts(), (1, 8, 8)).causal


def test_a_tap_below_is_a_leak_though_declared():
    class Below(nn.Module):
        taps = ((1, 0), (-1, 0))

        def forward(self, x):
            return torch.roll(x, -1, -2) + torch.roll(x, 1, -2)

    assert (1, 0, 0) in check(Below(), (1, 8, 8)).leaks


class Liar(MaskedConv2d):
    """Declares fewer taps than it reads."""

    @property
    def taps(self):
        return tuple(tap for tap in super().taps if tap != (-1, -1))


def test_a_layer_must_keep_to_its_declared_taps():
    layer = Liar("A", 1, 4, 3)
    report = check(layer)
    assert not report.causal
    assert report.leaks == [(-1, -1, 0)]


def test_a_lying_leaf_inside_a_module_is_named():
    report = check(Sequential(MaskedConv2d("A", 1, 4, 3), Liar("B", 4, 1, 3)), (1, 10, 10))
    assert any("1 reads [(-1, -1)] outside its declared taps" in note for note in report.notes)


def test_the_blind_spot_is_the_textbooks():
    # Three rows of 3x3 kernels: from row r above, the output sees no further right than r columns.
    model = Sequential(*(MaskedConv2d(mask, 1, 1, 3) for mask in "ABB"))
    report = check(model, (1, 12, 12))
    assert report.blind_spot == [(-2, 3, 0), (-1, 2, 0), (-1, 3, 0)]


def test_a_type_b_layer_of_a_student_is_allowed_its_centre():
    assert not check(Textbook("B", 1, 4, 3)).causal
    assert check(Textbook("B", 1, 4, 3), layer=True).causal


def test_zero_weights_hide_nothing():
    layer = nn.Conv2d(1, 1, 3, padding=1)
    nn.init.zeros_(layer.weight)
    assert (1, 1, 0) in check(layer).leaks


def test_the_receptive_field_of_a_first_layer():
    field = receptive_field(MaskedConv2d("A", 1, 2, 7))
    assert field == {"rows_above": 3, "columns_left": 3, "columns_right": 3, "pixels": 24}


@pytest.mark.parametrize(
    ("module", "message"),
    [(nn.Flatten(), "an output for each pixel"), (nn.Linear(5, 5), "--image-shape")],
)
def test_what_is_no_image_model_is_refused(module, message):
    with pytest.raises(ValueError, match=message):
        check(module)


def test_a_layer_that_lays_out_its_output_otherwise():
    class Columns(nn.Module):
        def forward(self, x):
            return x.mT.contiguous().mT

    assert check(Sequential(MaskedConv2d("B", 1, 2, 3), Columns()), (1, 8, 8), layer=True).verified


class Colors(nn.Module):
    """A student's model of colours: an output for each, of what its rule lets it see of its own pixel."""

    def __init__(self, sees):
        super().__init__()
        self.past = Textbook("A", 3, 3, 3)
        self.own = nn.Parameter(torch.randn(3, 3))
        self.sees = torch.tensor(sees)

    def forward(self, x):
        return self.past(x) + torch.einsum("oc,bcij->boij", self.own * self.sees, x)


@pytest.mark.parametrize(
    ("sees", "leaks"),
    [
        ([[0, 0, 0], [1, 0, 0], [1, 1, 0]], []),
        ([[0, 0, 0], [0, 0, 0], [0, 0, 0]], []),
        ([[0, 0, 0], [0, 1, 0], [0, 0, 0]], [(0, 0, 0)]),
        ([[0, 0, 1], [0, 0, 0], [0, 0, 0]], [(0, 0, 2)]),
        ([[0, 0, 0], [0, 0, 1], [0, 0, 0]], [(0, 0, 1)]),
    ],
)
def test_the_order_of_channels(sees, leaks):
    report = check(Colors(sees), (3, 8, 8))
    assert report.leaks == leaks
    assert report.causal == (not leaks)
    unseen = {(0, 0, -1), (0, 0, -2)} & set(report.blind_spot)
    assert bool(unseen) == (sees[2] != [1, 1, 0])


def test_a_layer_that_breaks_the_order_of_colors_is_named():
    class Mixes(nn.Conv2d):
        colors = 3

    report = check(Mixes(6, 6, 1), layer=True)
    assert (0, 0, 4) in report.leaks
    assert not [offset for offset in report.leaks if offset[2] < 2]


class Stay(nn.Module):
    def forward(self, x, context=None):
        return x


class Unshifted(GatedBlock):
    """Joins the vertical stack without shifting it down: the right of the row is seen."""

    def __init__(self, channels):
        super().__init__(channels)
        self.shift = Stay()


def test_a_block_of_streams_is_checked():
    assert check(GatedBlock(3, dilation=2), layer=True).causal
    report = check(Unshifted(3), layer=True)
    assert not report.causal
    assert (0, 1, 0) in report.leaks


class Below(GatedBlock):
    """Its first stream sees the row below, which no stream may."""

    def forward(self, v, h, s, context=None):
        v, h, s = super().forward(v, h, s, context)
        return v + torch.roll(v, -1, -2), h, s


def test_the_first_stream_sees_no_row_below():
    report = check(Below(3), layer=True)
    assert not report.causal
    assert (1, 0, 0) in report.leaks
