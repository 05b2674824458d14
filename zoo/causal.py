"""The causal contract: one forward that runs over a whole image, or over the positions that come next.

A *leaf* is a layer that looks at neighbours. It declares ``taps``, the offsets (di, dj) it reads, and its forward
takes a :class:`Context`. Without a front it convolves. With one it asks ``context.front.gather(self, x)`` for its
neighbours, stacked as channels, and multiplies. Everything pointwise (activations, norms over channels, residuals,
1x1 convolutions) runs both ways unchanged: a front's tensor is (B, C, 1, P), an image one pixel high.

Give pixel (i, j) the time t = j + s i, for a slope s. All pixels of one time form a front and are computed together.
A tensor of lag l holds, while front t is computed, the positions of time t - l: the input, the pixels drawn last,
lags by 1; a leaf turns lag l into max(0, l + max over its taps of (dj + s di)); pointwise work keeps the lag; tensors
that meet must have equal lags. :func:`schedule` finds the smallest slope for which that holds by running the model's
own forward once, dry. Taps look up or sideways, never down; where no slope fits, the output sees itself or the
future, so a schedule is a proof of causality.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Tap = tuple[int, int]


class CausalityError(ValueError):
    """A module that cannot run over fronts; the message names the layer and what to add."""


@dataclass(frozen=True, eq=False)
class Context:
    """What travels with the tensors: the condition, and the front if there is one.

    Args:
        labels: (B,) int64 classes, or None for an unconditional model.
        front: the positions computed now with every layer's memory, or None to compute a whole image.
    """

    labels: Tensor | None = None
    front: "Front | DryFront | None" = None


class Sequential(nn.Sequential):
    """An ``nn.Sequential`` that hands the context to every layer that takes one.

    Example:
        >>> from zoo.layers import ConditionalBias, MaskedConv2d
        >>> net = Sequential(MaskedConv2d("A", 1, 4, 7), ConditionalBias(10, 4), nn.ReLU())
        >>> net(torch.zeros(2, 1, 8, 8), Context(labels=torch.tensor([3, 7]))).shape
        torch.Size([2, 4, 8, 8])
    """

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        for layer in self:
            x = call(layer, x, context)
        return x


def call(layer: nn.Module, x: Tensor, context: Context | None) -> Tensor:
    """``layer(x, context)``, or ``layer(x)`` if its forward takes no context."""
    return layer(x, context) if takes_context(type(layer)) else layer(x)


@cache
def takes_context(kind: type[nn.Module]) -> bool:
    """Whether forward of this class of modules has a parameter ``context``."""
    return "context" in inspect.signature(kind.forward).parameters


@dataclass(frozen=True)
class Read:
    """One leaf's look at its neighbours during a pass: who looks at how many channels, the lags before and after."""

    layer: nn.Module
    taps: tuple[Tap, ...]
    channels: int
    lag: int
    output_lag: int

    @property
    def in_place(self) -> bool:
        """Whether it reads nothing but the position itself, so that nothing need be remembered."""
        return self.taps == ((0, 0),) and self.output_lag == self.lag

    def ages(self, slope: int) -> list[int]:
        """How many fronts back each tap lies."""
        return [self.output_lag - self.lag - dj - slope * di for di, dj in self.taps]

    def ring_shape(self, slope: int, width: int) -> tuple[int, int, int]:
        """How many fronts to remember, how many rows of each, and how many of these lie before the first one inside."""
        columns = [dj for _, dj in self.taps]
        margin = -(-max(0, *columns) // slope)
        return max(self.ages(slope)) + 1, margin + (width - 1 - min(0, *columns)) // slope + 1, margin


@dataclass(frozen=True)
class Schedule:
    """Which positions are computed together, and what every leaf must remember for it.

    Args:
        slope: pixel (i, j) has time j + slope * i.
        lag: how far the output is behind; 0 for every model that can be sampled over fronts.
        reads: every look at neighbours, in the order of the forward pass.
        input_lag: how far the input is behind: 1 for a model, which is given the pixels drawn last.
    """

    slope: int
    lag: int
    reads: tuple[Read, ...]
    input_lag: int = 1

    def fronts(self, height: int, width: int) -> int:
        """How many fronts an image of this size takes."""
        return width + self.slope * (height - 1) + self.lag

    def bytes_per_image(self, image_shape: Sequence[int], element_size: int, outputs: int = 1) -> int:
        """What the run over fronts holds for each image: rings, the largest gathered front, logits, noise, pixels."""
        channels, height, width = image_shape
        front = -(-width // self.slope)
        rings, gathered = 0, 0
        for read in self.reads:
            if not read.in_place:
                fronts, rows, _ = read.ring_shape(self.slope, width)
                rings += fronts * rows * read.channels
            # What it reads, and two tensors as wide as its output, of which its input's width is a fair guess.
            gathered = max(gathered, front * read.channels * (len(read.taps) + 2))
        # Logits are compared with the noise in float64, by way of a few tensors of their size.
        return element_size * (rings + gathered) + 8 * (4 * front * outputs + 3 * channels * height * width)


class Front:
    """The positions computed now, with the memory of every leaf; the caller's, never a module's.

    Tap (di, dj) of an output pixel lies a fixed number of fronts back, so a leaf needs a ring of its last few fronts
    only, and a tap is a slice of rows. A front's tensor (B, C, 1, P) lies in memory as (P, 1, B, C): rows outermost,
    so that slices are contiguous and a leaf's product is one matrix product.

    Args:
        schedule: from :func:`schedule`.
        height, width: the image's size in pixels.
    """

    def __init__(self, schedule: Schedule, height: int, width: int) -> None:
        self.schedule, self.height, self.width = schedule, height, width
        self.time = -1
        self._rings: list[_Ring | None] = [None] * len(schedule.reads)
        self._next = 0
        self._spans: dict[int, tuple[int, int, int]] = {}
        self._kept: dict[tuple[nn.Module, str], tuple[tuple[Any, ...], Any]] = {}

    def advance(self) -> None:
        """Go on to the next front."""
        self.time += 1
        self._next = 0
        self._spans.clear()

    def take(self, images: Tensor, lag: int) -> Tensor:
        """What images (B, C, H, W) hold at this front's positions, for a tensor that lags so: a view (B, C, 1, P).

        A row must be further from the next in memory than a column, as it is in all usual layouts.
        A front without positions goes on with one that is nowhere, since layers do not like empty images.
        """
        low, _, end = self.rows(lag)
        return self._diagonal(images, lag, low, end)

    def put(self, images: Tensor, values: Tensor, lag: int) -> None:
        """Write values (B, C, 1, P) to this front's positions of images (B, C, H, W)."""
        low, high, _ = self.rows(lag)
        if high > low:
            self._diagonal(images, lag, low, high).copy_(values)

    def once(self, layer: nn.Module, make: Callable[[], Any], *of: Any) -> Any:
        """What ``make()`` gives, made once for all fronts: a weight in the layout of the product, a condition's bias.

        Made again where ``of``, what it is made of beside the layer's parameters, are other objects than last time.
        """
        key = layer, make.__qualname__
        made_of, made = self._kept.get(key, (None, None))
        if made_of is None or any(one is not other for one, other in zip(made_of, of, strict=True)):
            made = make()
            self._kept[key] = of, made
        return made

    def gather(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Remember the leaf's input (B, C, 1, P) and return what its taps read, (B, taps * C, 1, P'), tap by tap."""
        index, self._next = self._next, self._next + 1
        read = self.schedule.reads[index]
        if read.layer is not layer:
            raise CausalityError(f"forward took another path than its dry run: {_title(layer)} came unexpected")
        if read.in_place:
            return x
        ring = self._rings[index]
        if ring is None:
            ring = self._rings[index] = _Ring(read, self.schedule.slope, self.width, x)
        ring.write(x, self.time, *self.rows(read.lag)[:2])
        return ring.read(self.time, *self.rows(read.output_lag))

    def rows(self, lag: int) -> tuple[int, int, int]:
        """The rows [low, high) with a pixel of the time so far back; a tensor holds [low, end), at least one."""
        if lag not in self._spans:
            time, slope = self.time - lag, self.schedule.slope
            low = min(max(0, -((self.width - 1 - time) // slope)), self.height - 1)
            high = max(low, min(self.height, time // slope + 1))
            # Where the slope exceeds the width there are times between the rows that no pixel has.
            if not 0 <= time - slope * low < self.width:
                high = low
            self._spans[lag] = low, high, max(high, low + 1)
        return self._spans[lag]

    def _diagonal(self, images: Tensor, lag: int, low: int, high: int) -> Tensor:
        # One row down is one slope to the left: the same step in memory each time.
        batch, channels, down, right = images.stride()
        column = min(max(self.time - lag - self.schedule.slope * low, 0), self.width - 1)
        step = down - self.schedule.slope * right if high > low + 1 else 1
        start = images.storage_offset() + low * down + column * right
        return images.as_strided((*images.shape[:2], 1, high - low), (batch, channels, 1, step), start)


class _Ring:
    """The last few fronts of one leaf's input.

    Each slot holds one front's rows. Row r of time t lies at r - first(t) + margin, where first(t) is the uppermost row
    that would have a pixel of that time if the image had no top; what lies before and after is zero, which is padding.
    """

    def __init__(self, read: Read, slope: int, width: int, x: Tensor) -> None:
        self.lag, self.output_lag, self.slope, self.width = read.lag, read.output_lag, slope, width
        self.taps = [(age, dj) for age, (_, dj) in zip(read.ages(slope), read.taps, strict=True)]
        fronts, rows, self.margin = read.ring_shape(slope, width)
        self.slots = list(x.new_zeros(fronts, rows, 1, len(x), x.shape[1]))
        self.filled = [(0, 0)] * len(self.slots)

    def write(self, x: Tensor, time: int, low: int, high: int) -> None:
        """Put rows [low, high) of x (B, C, 1, P) in the place of the oldest front."""
        index = time % len(self.slots)
        slot, (old_start, old_stop) = self.slots[index], self.filled[index]
        start = low - self._first(time - self.lag) + self.margin if high > low else old_stop
        stop = start + high - low
        # What the front so long ago has left outside these rows would be read as if it were padding.
        if old_start < start:
            slot[old_start : min(old_stop, start)].zero_()
        if stop < old_stop:
            slot[max(old_start, stop) : old_stop].zero_()
        if high > low:
            slot[start:stop].copy_(x.permute(3, 2, 0, 1)[: high - low])
        self.filled[index] = start, stop

    def read(self, time: int, low: int, high: int, end: int) -> Tensor:
        """What the taps of output rows [low, end) read, side by side: (B, taps * C, 1, end - low)."""
        slots, now = self.slots, time - self.output_lag
        count, start = end - low, low + self.margin
        seen = []
        for age, column in self.taps:
            at = start - self._first(now + column) if high > low else 0
            seen.append(slots[(time - age) % len(slots)][at : at + count])
        return torch.cat(seen, -1).permute(2, 3, 1, 0)

    def _first(self, time: int) -> int:
        return -((self.width - 1 - time) // self.slope)


class _Lagged(torch.Tensor):
    """A tensor of the dry run: it carries its lag through every function that is called on it."""

    lag: int

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        lags = {leaf.lag for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, _Lagged)}
        if len(lags) > 1:
            raise _WrongSlope
        output = super().__torch_function__(func, types, args, kwargs or {})
        for leaf in tree_leaves(output):
            if isinstance(leaf, _Lagged):
                leaf.lag = next(iter(lags))
        return output


class _WrongSlope(Exception):
    """Tensors of different lags met."""


@dataclass(eq=False)
class DryFront:
    """A front that holds whole images, and whose gathers only keep the books of lags."""

    slope: int
    reads: list[Read] = field(default_factory=list)

    def gather(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Record the read; every tap reads the position itself, so that a taint stays where it is."""
        taps = tuple(layer.taps)
        if not taps or any(di > 0 for di, _ in taps):
            raise CausalityError(f"{_title(layer)} declares the taps {taps}; declare at least one, and none below")
        if not isinstance(x, _Lagged):
            raise CausalityError(LOST.format(f"the input of {_title(layer)}"))
        lag = max(0, x.lag + max(dj + self.slope * di for di, dj in taps))
        self.reads.append(Read(layer, taps, x.shape[1], x.lag, lag))
        seen = x.permute(3, 2, 0, 1).repeat(1, 1, 1, len(taps)).permute(2, 3, 1, 0)
        seen.lag = lag
        return seen

    def once(self, layer: nn.Module, make: Callable[[], Any], *of: Any) -> Any:
        """What ``make()`` gives."""
        return make()


LOST = "{} does not follow from the model's input by torch functions; do not copy into a tensor made beforehand"


def schedule(
    module: nn.Module,
    channels: int,
    *,
    labels: Tensor | None = None,
    lag: int = 1,
    output_may_lag: bool = False,
) -> Schedule:
    """Find the smallest slope with which ``module`` can run over fronts, by dry runs of its own forward.

    A last dry run is the proof: on three whole images, each with a NaN in another place, which must stay there.
    What moves or spreads it mixes positions or images without declaring taps.

    Args:
        module: anything whose leaves follow the contract.
        channels: C of its input (B, C, H, W).
        labels: (1,) classes, for a conditional module.
        lag: of the input; 1 for a model, 0 for a layer that may see its own position.
        output_may_lag: True for a layer, whose output may be behind; never for a model.

    Raises:
        CausalityError: a layer mixes positions, or no slope fits.

    Example:
        >>> from zoo.layers import MaskedConv2d
        >>> schedule(Sequential(MaskedConv2d("A", 1, 8, 7), MaskedConv2d("B", 8, 1, 3)), channels=1).slope
        4
    """
    parameter = next(module.parameters(), torch.zeros(()))
    height, width = getattr(module, "image_shape", (channels, 28, 28))[1:]
    tiny = torch.ones(1, channels, 1, 2, dtype=parameter.dtype, device=parameter.device)
    tainted = tiny[..., :1].repeat(3, 1, height, width)
    for image, place in enumerate([(height // 2, width // 3), (0, 0), (height - 1, width - 1)]):
        tainted[image, :, *place] = torch.nan
    slope, limit = 1, 1
    while slope <= limit:
        front = DryFront(slope)
        try:
            output_lag = _dry_run(module, tiny, labels, lag, front)
        except _WrongSlope:
            output_lag = None
        # Beyond the sum of all reaches to the right, a row further up always outweighs them: no new case comes.
        limit = max(limit, 1 + lag + sum(max(0, *(dj for _, dj in read.taps)) for read in front.reads))
        if output_lag == 0 or (output_may_lag and output_lag is not None):
            _dry_run(module, tainted, labels, lag, DryFront(slope))
            return Schedule(slope, output_lag, tuple(front.reads), lag)
        slope += 1
    # A layer that mixes positions without declaring taps is the likelier reason, and has a name.
    with suppress(_WrongSlope):
        _dry_run(module, tainted, labels, lag, DryFront(limit))
    raise CausalityError(
        f"no slope up to {limit} lets {_title(module)} run over fronts: its output sees its own pixel or a later "
        "one, or streams that meet are not aligned; begin with a type-A mask, or shift one stream"
    )


def _dry_run(module: nn.Module, x: Tensor, labels: Tensor | None, lag: int, front: DryFront) -> int:
    """Run forward on x with so much lag; returns the output's, and refuses what moves a NaN."""
    taint = torch.isnan(x).any(1)
    x = x.clone().as_subclass(_Lagged)
    x.lag = lag
    context = Context(labels=None if labels is None else labels.expand(len(x)), front=front)
    names = {child: name for name, child in module.named_modules()} if taint.any() else {}
    hooks = [
        child.register_forward_hook(lambda child, _, y: _refuse_spread(y, taint, f"{names[child]}: {_title(child)}"))
        for child in names
        if next(child.children(), None) is None
    ]
    # A layer that keeps statistics (BatchNorm in training mode) must not keep those of a dry run.
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        with torch.no_grad():
            arguments = (x, context) if takes_context(type(module)) else (x,)
            y = torch.func.functional_call(module, buffers, arguments)
    except (CausalityError, _WrongSlope):
        raise
    except Exception as error:
        raise CausalityError(
            f"{_title(module)} fails on a front, an image one pixel high: {type(error).__name__}: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(y, _Lagged):
        raise CausalityError(LOST.format(f"the output of {_title(module)}"))
    if y.ndim != 4 or (len(y), *y.shape[2:]) != taint.shape:
        raise CausalityError(
            f"{_title(module)} gives {tuple(y.shape)} for {tuple(x.shape)}; it must keep the positions"
        )
    _refuse_spread(y, taint, _title(module))
    return y.lag


def _refuse_spread(y: Any, taint: Tensor, title: str) -> None:
    # Inside a block positions may lie in other dimensions; then the block's output tells.
    if not isinstance(y, _Lagged) or y.ndim != 4 or (len(y), *y.shape[2:]) != taint.shape:
        return
    if (torch.isnan(y.as_subclass(Tensor)).any(1) & ~taint).any():
        raise CausalityError(
            f"{title} mixes positions or images and cannot run over a front; a layer that looks at neighbours must "
            "declare taps and read them by context.front.gather(self, x)"
        )


def _title(module: nn.Module) -> str:
    text = repr(module)
    return text if "\n" not in text else type(module).__name__


def over_fronts(schedule: Schedule, height: int, width: int, context: Context) -> Iterator[tuple[Context, Front]]:
    """Go through all fronts of an image: the context to call the module with, and the front it holds."""
    front = Front(schedule, height, width)
    context = replace(context, front=front)
    for _ in range(schedule.fronts(height, width)):
        front.advance()
        yield context, front
