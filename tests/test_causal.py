import pytest
import torch
from torch import nn

from zoo import rowwise, wavefront
from zoo.causal import CausalityError, Context, Sequential, over_fronts
from zoo.layers import ChannelNorm, MapBias, MaskedConv2d, VerticalConv2d
from zoo.wavefront import schedule


class Taps(nn.Module):
    """Reads any taps, as a plugin's leaf would: a product with each neighbour."""

    def __init__(self, channels, taps):
        super().__init__()
        self.taps = taps
        self.weight = nn.Parameter(torch.randn(channels, channels, len(taps)))

    def forward(self, x, context=None):
        if context is not None and context.front is not None:
            seen = context.front.gather(self, x).unflatten(1, (len(self.taps), -1))
        else:
            reach = max(abs(step) for tap in self.taps for step in tap)
            padded = nn.functional.pad(x, (reach,) * 4)
            height, width = x.shape[2:]
            seen = torch.stack(
                [padded[:, :, reach + i : reach + i + height, reach + j : reach + j + width] for i, j in self.taps], 1
            )
        return torch.einsum("bkchw,ock->bohw", seen, self.weight)


class TwoStacks(nn.Module):
    """A vertical stack that sees whole rows, shifted down by one row, joined by a horizontal one: no blind spot."""

    def __init__(self, blocks):
        super().__init__()
        row = tuple((i, j) for i in (-1, 0) for j in (-1, 0, 1))
        self.first = Taps(1, ((0, -1),))
        self.vertical = nn.ModuleList(Taps(1, row) for _ in range(blocks))
        self.shift = nn.ModuleList(Taps(1, ((-1, 0),)) for _ in range(blocks))
        self.horizontal = nn.ModuleList(Taps(1, ((0, -1), (0, 0))) for _ in range(blocks))

    def forward(self, x, context=None):
        v, h = x, self.first(x, context)
        for vertical, shift, horizontal in zip(self.vertical, self.shift, self.horizontal, strict=True):
            v = torch.tanh(vertical(v, context))
            h = h + torch.sigmoid(horizontal(h, context) + shift(v, context))
        return h


def run_over_fronts(module, x, way=wavefront, condition=None):
    condition = condition or Context()
    plan = way.schedule(module, x.shape[1], context=condition)
    y = torch.zeros_like(module(x, condition))
    for context, front in over_fronts(plan, *x.shape[2:], condition):
        at = front.positions
        at.put(y, module(at.take(x, plan.input_lag), context), plan.lag)
    return y


WAYS = [wavefront, rowwise]


def net(*layers):
    return Sequential(MaskedConv2d("A", 1, 4, 7), *layers).double()


CASES = {
    "slope 4": (net(nn.ReLU(), MaskedConv2d("B", 4, 2, 3)), 4),
    "dilated": (net(MaskedConv2d("B", 4, 2, 3, dilation=3)), 4),
    "grouped": (net(MaskedConv2d("B", 4, 6, 5, groups=2), ChannelNorm(6)), 4),
    "3x3 first": (Sequential(MaskedConv2d("A", 1, 3, 3)).double(), 2),
    "1x1": (net(nn.Conv2d(4, 3, 1), MaskedConv2d("B", 3, 3, 1)), 4),
    "left only": (Sequential(Taps(1, ((0, -1), (-1, 0)))).double(), 1),
    "two stacks": (TwoStacks(3).double(), 4),
    "six blocks": (TwoStacks(6).double(), 7),
    "one layer twice": (net(*[MaskedConv2d("B", 4, 4, 3)] * 2), 4),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [(7, 9), (9, 4), (1, 5), (5, 1)])
@pytest.mark.parametrize("way", WAYS)
def test_front_by_front_is_all_at_once(case, size, way):
    module, slope = CASES[case]
    assert schedule(module, 1).slope == slope
    x = torch.randn(3, 1, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(run_over_fronts(module, x, way), module(x))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(40))
def test_any_taps_of_any_image_size(seed, way):
    # Taps that reach far in any direction, so that slopes exceed widths, cells are shared and rows end at odd times.
    generator = torch.Generator().manual_seed(seed)

    def numbers(low, high, count):
        return torch.randint(low, high + 1, (count,), generator=generator).tolist()

    layers = []
    for first in (True, False, False):
        rows, columns = numbers(-4, 0, 4), numbers(-6, 6, 4)
        taps = {(i, j if i < 0 else -abs(j)) for i, j in zip(rows, columns, strict=True)}
        layers.append(Taps(1, tuple(sorted(tap for tap in taps | {(-1, -2)} if not first or tap != (0, 0)))))
    module = Sequential(*layers).double()
    x = torch.randn(2, 1, *numbers(1, 9, 2), dtype=torch.float64, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(run_over_fronts(module, x, way), module(x))


class ResidualStacks(nn.Module):
    """A vertical stack with residuals and a condition, of any taps: what only runs row by row."""

    def __init__(self, taps, shift):
        super().__init__()
        self.first, self.conditioned = VerticalConv2d(1, 2, (2, 5)), MapBias(3, 2)
        nn.init.normal_(self.conditioned.weight)
        self.vertical = nn.ModuleList(Taps(2, each) for each in taps)
        self.shift = Taps(2, shift)
        self.horizontal = MaskedConv2d("A", 1, 2, (1, 5))

    def forward(self, x, context=None):
        v = self.conditioned(self.first(x, context), context)
        for vertical in self.vertical:
            v = v + torch.tanh(vertical(v, context))
        return torch.relu_(self.shift(v, context) + self.horizontal(x, context))


@pytest.mark.parametrize("size", [(6, 5), (4, 1), (1, 4)])
@pytest.mark.parametrize("shift", [((-1, 0),), ((-2, 3), (-1, -2), (-1, 7))])
@pytest.mark.parametrize(
    "taps",
    [[((0, 1), (0, 0), (0, -1))], [((-2, 3), (0, 1), (-1, -1), (0, -6)), ((-1, 0), (0, 0))]],
    ids=["in order", "to and fro"],
)
def test_row_by_row_is_all_at_once(taps, shift, size):
    torch.manual_seed(0)
    module = ResidualStacks(taps, shift).double()
    x, maps = (torch.randn(3, channels, *size, dtype=torch.float64) for channels in (1, 3))
    with torch.no_grad():
        y = run_over_fronts(module, x, rowwise, Context(maps=maps))
        torch.testing.assert_close(y, module(x, Context(maps=maps)))
    with pytest.raises(CausalityError, match="no slope"):
        schedule(module, 1, context=Context(maps=maps))


def test_rows_run_once_a_row():
    plan = rowwise.schedule(TwoStacks(3), 1)
    assert plan.fronts(28, 28) == 784
    assert [read.output_lag == rowwise.ROWS for read in plan.reads] == [False] + [True, False, False] * 3


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Sequential(MaskedConv2d("B", 1, 4, 3)), "sees its own pixel"),
        (net(nn.Conv2d(4, 4, 3, padding=1)), r"1: Conv2d.* declare taps"),
        (net(nn.BatchNorm2d(4)), "1: BatchNorm2d.* mixes positions or images"),
        (net(nn.AdaptiveAvgPool2d(1)), "must keep the positions"),
        (Sequential(Taps(1, ((1, 0),))), "none below"),
        (Sequential(Taps(1, ((0, 1),))), "sees its own pixel or a later one"),
        (Sequential(VerticalConv2d(1, 1, 3)), "sees its own pixel or a later one"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_causal_has_no_schedule(module, message, way):
    with pytest.raises(CausalityError, match=message):
        way.schedule(module, 1)


def test_streams_of_another_kind_do_not_meet():
    class Unshifted(TwoStacks):
        def forward(self, x, context=None):
            return self.first(x, context) + self.vertical[0](x, context)

    for way in WAYS:
        with pytest.raises(CausalityError, match="streams that meet"):
            way.schedule(Unshifted(1), 1)


def test_a_dry_run_leaves_no_trace():
    module = net(nn.BatchNorm2d(4)).train()
    with pytest.raises(CausalityError):
        schedule(module, 1)
    assert torch.equal(module[1].running_mean, torch.zeros(4, dtype=torch.float64))


def test_few_fronts():
    plan = schedule(net(MaskedConv2d("B", 4, 4, 3)), 1)
    assert plan.fronts(28, 28) == 136


class Function(nn.Module):
    """Any function as a layer that declares nothing."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def pad(x, *sides):
    return nn.functional.pad(x, sides)


@pytest.mark.parametrize(
    "layer",
    [
        Function(lambda x: pad(x, 1, 0)[..., :-1]),
        Function(lambda x: pad(x, 0, 1)[..., 1:]),
        Function(lambda x: pad(x, 0, 0, 1, 0)[:, :, :-1]),
        Function(lambda x: torch.roll(x, 5, -1)),
        Function(lambda x: x.flip(-2)),
        Function(lambda x: x.cumsum(-1)),
        Function(lambda x: x.softmax(-1)),
        Function(lambda x: x.transpose(-1, -2)),
        Function(lambda x: x - x.mean((0, 1), keepdim=True)),
        nn.Sequential(nn.ZeroPad2d((1, 0, 0, 0)), nn.Conv2d(4, 4, (1, 2))),
        nn.Conv2d(4, 4, (3, 1), padding=(1, 0)),
        nn.Conv2d(4, 4, 3, padding=9, dilation=9),
    ],
    ids=str,
)
def test_what_moves_a_position_without_taps_is_refused(layer):
    with pytest.raises(CausalityError, match=r"mixes positions|keep the positions|fails on a front"):
        schedule(net(layer, MaskedConv2d("B", 4, 1, 3)), 1)


@pytest.mark.parametrize(
    "layer",
    [
        Function(lambda x: nn.functional.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)),
        Function(lambda x: x.flatten(2).mT.softmax(-1).mT.unflatten(2, x.shape[2:])),
        Function(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
        nn.Sequential(nn.Dropout(0.5), nn.GELU(), nn.ReLU(inplace=True)),
        nn.Conv2d(4, 4, 1),
    ],
)
def test_what_is_pointwise_runs_as_it_is(layer):
    assert schedule(net(layer, MaskedConv2d("B", 4, 1, 3)), 1).slope == 4


class Copies(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = MaskedConv2d("A", 1, 1, 3)

    def forward(self, x, context=None):
        y = torch.empty(x.shape)
        y[:] = self.conv(x, context)
        return y


def test_a_lag_that_is_lost_is_noticed():
    with pytest.raises(CausalityError, match="do not copy into a tensor made beforehand"):
        schedule(Copies(), 1)


def test_what_fails_on_a_front_is_named():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.place = nn.Parameter(torch.zeros(1, 1, 8, 8))

        def forward(self, x):
            return x + self.place

    with pytest.raises(CausalityError, match="fails on a front"):
        schedule(Learned(), 1)


class Greedy(Taps):
    """Writes into what it has gathered, as it may."""

    def forward(self, x, context=None):
        if context is None or context.front is None:
            return super().forward(x)
        seen = context.front.gather(self, x)
        y = torch.einsum("btchw,oct->bohw", seen.unflatten(1, (len(self.taps), -1)), self.weight)
        seen.zero_()
        return y


@pytest.mark.parametrize("taps", [((-1, 1), (-1, 0), (-1, -1), (0, 0), (0, -1)), ((0, 0),)], ids=["one view", "itself"])
def test_a_leaf_may_write_into_what_it_gathered(taps):
    torch.manual_seed(0)
    first = Taps(2, ((-1, 1), (0, -1)))
    module = Sequential(first, Greedy(2, taps), Greedy(2, taps)).double()
    x = torch.randn(1, 2, 5, 6, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(run_over_fronts(module, x), module(x))
