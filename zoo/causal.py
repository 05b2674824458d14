"""The causal contract: one forward that runs over a whole image, or over the positions that come next.

A *leaf* is a layer that looks at neighbours. It declares ``taps``, the offsets (di, dj) it reads, and its forward
takes a :class:`Context`. Without a front it convolves. With one it asks ``context.front.gather(self, x)`` for its
neighbours, stacked as channels, or ``context.front.linear`` for a matrix times them. Everything pointwise (activations,
norms over channels, residuals, 1x1 convolutions) runs both ways unchanged: a front's tensor is (B, C, 1, P), an image
one pixel high.

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
from torch.nn import functional as F
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

    def band(self, slope: int, height: int, width: int) -> tuple[int, int, int]:
        """What :class:`_Band` needs: its depth, its cells, and which of them position (0, 0) has."""
        up = -min(di for di, _ in self.taps)
        columns = [dj for _, dj in self.taps]
        left, right = -min(0, *columns), max(0, *columns)
        depth = max(slope, max(self.ages(slope)) + 1)
        origin = (depth - slope) * up + width - 1 + right
        return depth, origin + (depth - slope) * (height - 1) + left + 1, origin


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
        """What the run over fronts holds for each image: bands, the largest gathered front, logits, noise, pixels."""
        channels, height, width = image_shape
        front = -(-width // self.slope)
        bands, gathered = 0, 0
        for read in self.reads:
            if not read.in_place:
                bands += read.band(self.slope, height, width)[1] * read.channels
            # What it reads, and two tensors as wide as its output, of which its input's width is a fair guess.
            gathered = max(gathered, front * read.channels * (len(read.taps) + 2))
        # Logits are compared with the noise in float64, by way of a few tensors of their size.
        return element_size * (bands + gathered) + 8 * (4 * front * outputs + 3 * channels * height * width)


class Front:
    """The positions computed now, with the memory of every leaf; the caller's, never a module's.

    Tap (di, dj) of an output pixel lies a fixed number of fronts back, so a leaf need remember its last few fronts
    only. A front's tensor (B, C, 1, P) lies in memory as (P, 1, B, C), so that a leaf's product is one matrix product.

    Args:
        schedule: from :func:`schedule`.
        height, width: the image's size in pixels.
    """

    def __init__(self, schedule: Schedule, height: int, width: int) -> None:
        self.schedule, self.height, self.width = schedule, height, width
        self.time = -1
        self._bands: list[_Band | None] = [None] * len(schedule.reads)
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
        index = self._next
        seen, band = self._seen(layer, x), self._bands[index]
        # What is not put together from several runs is a view of the memory, or of x, into which a leaf might write.
        is_view = band is None or len(band.runs) == 1
        return self._images(seen.clone() if is_view else seen, len(x))

    def linear(self, layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Gather, then multiply by a matrix (out, taps * C) and add a bias (out,): (B, out, 1, P')."""
        return self._images(F.linear(self._seen(layer, x), weight, bias), len(x))

    def _seen(self, layer: nn.Module, x: Tensor) -> Tensor:
        """What the leaf's taps read, a row for each position and image: (P' * B, taps * C); not to be written to."""
        index, self._next = self._next, self._next + 1
        read = self.schedule.reads[index]
        if read.layer is not layer:
            raise CausalityError(f"forward took another path than its dry run: {_title(layer)} came unexpected")
        if read.in_place:
            return x.permute(3, 2, 0, 1).reshape(-1, x.shape[1])
        band = self._bands[index]
        if band is None:
            band = self._bands[index] = _Band(read, self.schedule.slope, self.height, self.width, x)
        band.write(x, self.time, *self.rows(read.lag)[:2])
        return band.read(self.time, *self.rows(read.output_lag))

    @staticmethod
    def _images(rows: Tensor, batch: int) -> Tensor:
        """Rows (P * B, C) as images (B, C, 1, P)."""
        return rows.view(1, -1, batch, rows.shape[1]).permute(2, 3, 0, 1)

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


class _Band:
    """The last few fronts of one leaf's input, in cells of which each holds a pixel until it is read no more.

    Pixel (i, j) of time t = j + slope * i has cell depth * i - t, up to a constant. No two that are needed at a time
    share a cell: pixel (i + 1, j + depth - slope), which does, comes ``depth`` fronts later. A front is every depth-th
    cell and a tap lies a fixed number of cells away, so that all pixels' neighbours along a row, from right to left,
    are one view; where the rows of a kernel follow each other, as in a 3x3 one, all its taps are. What lies left of the
    image or above shares cells only with pixels that come later, and is zero for as long as it is read; what lies
    right of it is set to zero when its time comes.
    """

    def __init__(self, read: Read, slope: int, height: int, width: int, x: Tensor) -> None:
        self.lag, self.output_lag, self.slope = read.lag, read.output_lag, slope
        self.height, self.width = height, width
        self.right = max(0, *(dj for _, dj in read.taps))
        self.depth, cells, self.origin = read.band(slope, height, width)
        self.batch, self.channels = len(x), x.shape[1]
        self.cell = self.batch * self.channels
        self.memory = x.new_zeros(cells, self.batch, self.channels)
        self.runs = _runs([(self.depth - slope) * di - dj for di, dj in read.taps])

    def write(self, x: Tensor, time: int, low: int, high: int) -> None:
        """Put rows [low, high) of x (B, C, 1, P) in their cells."""
        time -= self.lag
        if high > low:
            self._rows(time, low, high).copy_(x)
        if self.right:
            # The rows that have a pixel of this time to the right of the image.
            low = max(0, -((self.width - 1 + self.right - time) // self.slope))
            high = min(self.height, -((self.width - 1 - time) // self.slope))
            if high > low:
                self._rows(time, low, high).zero_()

    def read(self, time: int, low: int, high: int, end: int) -> Tensor:
        """What the taps of output rows [low, end) read, side by side: ((end - low) * B, taps * C)."""
        # A front without pixels reads for one that is somewhere.
        time = time - self.output_lag if high > low else self.slope * low
        start, rows, cell, channels = self.origin + self.depth * low - time, end - low, self.cell, self.channels
        seen = [
            self.memory.as_strided(
                (rows, self.batch, length, channels),
                (self.depth * cell, channels, step * cell, 1),
                (start + first) * cell,
            )
            for first, step, length in self.runs
        ]
        together = seen[0] if len(seen) == 1 else torch.cat(seen, 2)
        return together.reshape(rows * self.batch, -1)

    def _rows(self, time: int, low: int, high: int) -> Tensor:
        return self.memory.as_strided(
            (self.batch, self.channels, 1, high - low),
            (self.channels, 1, 1, self.depth * self.cell),
            (self.origin + self.depth * low - time) * self.cell,
        )


def _runs(offsets: list[int]) -> list[tuple[int, int, int]]:
    """Split into evenly spaced ascending runs: (first, step, length) of each.

    Example:
        >>> _runs([0, 1, 5, 7, 9, 2])
        [(0, 1, 2), (5, 2, 3), (2, 1, 1)]
    """
    runs: list[tuple[int, int, int]] = []
    for offset in offsets:
        first, step, length = runs[-1] if runs else (0, 0, 0)
        if length == 1 and offset > first:
            runs[-1] = first, offset - first, 2
        elif length > 1 and offset == first + step * length:
            runs[-1] = first, step, length + 1
        else:
            runs.append((offset, 1, 1))
    return runs


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

    def linear(self, layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Gather, then multiply."""
        return F.linear(self.gather(layer, x).movedim(1, -1), weight, bias).movedim(-1, 1)

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
