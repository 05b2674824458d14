"""The causal contract: one forward that runs over a whole image, or over the positions that come next.

A *leaf* is a layer that looks at neighbours. It declares ``taps``, the offsets (di, dj) it reads, and its forward
takes a :class:`Context`. Without a front it convolves. With one it asks ``context.front.gather(self, x)`` for its
neighbours, stacked as channels, or ``context.front.linear`` for a matrix times them; ``context.front.here`` tells what
an image that is known, such as a map, holds at the same positions. Everything pointwise (activations,
norms over channels, residuals, 1x1 convolutions) runs both ways unchanged: a front's tensor is (B, C, 1, P), an image
one pixel high.

Which positions a front holds, and how far each tensor is behind them, its *lag*, is not written anywhere: it follows
from the taps, by running the model's own forward once, dry, on tensors that carry a lag. Taps look up or sideways,
never down; where no lags fit, the output sees itself or the future, so lags that fit are a proof of causality. There
are two ways to go over an image: :mod:`zoo.wavefront`, along a slope, and :mod:`zoo.rowwise`, row by row.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from operator import is_not
from types import CodeType
from typing import Any, Protocol

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

    An image without a condition, dropped in training or for guidance, has the label -1, a vector of zeros and a map of
    zeros: what a bias of V y, V h or V * s makes of them is nothing.

    Args:
        labels: (B,) int64 classes y, or None.
        vectors: (B, D) floats h, an embedding of anything, or None.
        maps: (B, K, H, W) floats s, one vector for each pixel, or None.
        front: the positions computed now with every layer's memory, or None to compute a whole image.
    """

    labels: Tensor | None = None
    vectors: Tensor | None = None
    maps: Tensor | None = None
    front: "Front | DryFront | None" = None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Context":
        """The same with every part of the condition changed: ``context.each(lambda part: part[:8])``."""
        parts = {name: getattr(self, name) for name in ("labels", "vectors", "maps")}
        return replace(self, **{name: None if part is None else change(part) for name, part in parts.items()})


def nothing(part: Tensor) -> Tensor:
    """What stands for no condition in the place of labels, vectors or maps, of the same shape.

    Example:
        >>> nothing(torch.tensor([3, 7])), nothing(torch.tensor([[0.5, 2.0]]))
        (tensor([-1, -1]), tensor([[0., 0.]]))
    """
    return torch.full_like(part, 0 if part.is_floating_point() else -1)


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


def required(layer: nn.Module) -> list[inspect.Parameter]:
    """What the layer's forward must be given, beside the context: one tensor, or one for each stream of features."""
    return [
        parameter
        for parameter in inspect.signature(layer.forward).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and parameter.name != "context"
    ]


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

    @property
    def reach(self) -> tuple[int, int, int]:
        """How far it looks up, left and right."""
        columns = [dj for _, dj in self.taps]
        return -min(di for di, _ in self.taps), -min(0, *columns), max(0, *columns)


class _Lagged(torch.Tensor):
    """A tensor of the dry run: it carries its lag through every function that is called on it."""

    lag: int

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        lags = {leaf.lag for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, _Lagged)}
        if len(lags) > 1:
            raise LagsDiffer
        output = super().__torch_function__(func, types, args, kwargs or {})
        for leaf in tree_leaves(output):
            if isinstance(leaf, _Lagged):
                leaf.lag = next(iter(lags))
        return output


class LagsDiffer(Exception):
    """Tensors of different lags met."""


@dataclass(eq=False)
class DryFront:
    """A front that holds whole images, and whose gathers only keep the books of lags.

    Args:
        rule: the lag of what a leaf of some taps gives, from the lag of what it is given.
    """

    rule: Callable[[int, tuple[Tap, ...]], int]
    reads: list[Read] = field(default_factory=list)

    def gather(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Record the read; every tap reads the position itself, so that a taint stays where it is."""
        taps = tuple(layer.taps)
        if not taps or any(di > 0 for di, _ in taps):
            raise CausalityError(f"{title(layer)} declares the taps {taps}; declare at least one, and none below")
        if not isinstance(x, _Lagged):
            raise CausalityError(LOST.format(f"the input of {title(layer)}"))
        lag = self.rule(x.lag, taps)
        self.reads.append(Read(layer, taps, x.shape[1], x.lag, lag))
        seen = x.permute(3, 2, 0, 1).repeat(1, 1, 1, len(taps)).permute(2, 3, 1, 0)
        seen.lag = lag
        return seen

    def linear(self, layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Gather, then multiply."""
        return F.linear(self.gather(layer, x).movedim(1, -1), weight, bias).movedim(-1, 1)

    def here(self, layer: nn.Module, x: Tensor, images: Tensor) -> Tensor:
        """Record whose positions are asked for; what is there does not matter."""
        if not isinstance(x, _Lagged):
            raise CausalityError(LOST.format(f"the input of {title(layer)}"))
        self.reads.append(Read(layer, ((0, 0),), images.shape[1], x.lag, x.lag))
        return torch.ones_like(x[:, :1]).expand(-1, images.shape[1], -1, -1)

    def once(self, layer: nn.Module, make: Callable[[], Any], *of: Any) -> Any:
        """What ``make()`` gives."""
        return make()


LOST = "{} does not follow from the model's input by torch functions; do not copy into a tensor made beforehand"


def dry_run(module: nn.Module, x: Tensor, context: Context, lag: int, front: DryFront) -> int:
    """Run forward on x with so much lag; returns the output's, and refuses what moves a NaN."""
    taint = torch.isnan(x).any(1)
    x = x.clone().as_subclass(_Lagged)
    x.lag = lag
    context = replace(context.each(lambda part: part.expand(len(x), *part.shape[1:])), front=front)
    names = {child: name for name, child in module.named_modules()} if taint.any() else {}
    hooks = [
        child.register_forward_hook(lambda child, _, y: _refuse_spread(y, taint, f"{names[child]}: {title(child)}"))
        for child in names
        if next(child.children(), None) is None
    ]
    # A layer that keeps statistics (BatchNorm in training mode) must not keep those of a dry run.
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        with torch.no_grad():
            arguments = (x, context) if takes_context(type(module)) else (x,)
            y = torch.func.functional_call(module, buffers, arguments)
    except (CausalityError, LagsDiffer):
        raise
    except Exception as error:
        raise CausalityError(
            f"{title(module)} fails on a front, an image one pixel high: {type(error).__name__}: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(y, _Lagged):
        raise CausalityError(LOST.format(f"the output of {title(module)}"))
    if y.ndim != 4 or (len(y), *y.shape[2:]) != taint.shape:
        raise CausalityError(f"{title(module)} gives {tuple(y.shape)} for {tuple(x.shape)}; it must keep the positions")
    _refuse_spread(y, taint, title(module))
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


def title(module: nn.Module) -> str:
    text = repr(module)
    return text if "\n" not in text else type(module).__name__


class Positions(Protocol):
    """Which positions the fronts of an image hold, one after the other, and what every leaf remembers of them."""

    def advance(self) -> None:
        """Go on to the next front."""

    def take(self, images: Tensor, lag: int) -> Tensor:
        """What images (B, C, H, W) hold at this front's positions, for a tensor that lags so: (B, C, 1, P)."""

    def put(self, images: Tensor, values: Tensor, lag: int) -> None:
        """Write values (B, C, 1, P) to this front's positions of images (B, C, H, W)."""

    def count(self, lag: int) -> int:
        """How many pixels of each image a tensor that lags so holds in this front."""

    def again(self) -> None:
        """Go through the same front once more."""

    def remember(self, index: int, x: Tensor) -> tuple[Tensor, bool] | None:
        """Keep the input (B, C, 1, P) of a read; what its taps see, (P' * B, taps * C), and whether that is a view.

        None where the output is of no interest in this front, and shall be a zero.
        """


class Front:
    """The positions computed now, with the memory of every leaf; the caller's, never a module's.

    A front's tensor (B, C, 1, P) lies in memory as (P, 1, B, C), so that a leaf's product is one matrix product.

    Args:
        reads: every look at neighbours, in the order of the forward pass.
        positions: which these are.
    """

    def __init__(self, reads: Sequence[Read], positions: Positions) -> None:
        self.reads, self.positions = reads, positions
        self._next = 0
        self._kept: dict[tuple[nn.Module, CodeType], tuple[tuple[Any, ...], Any]] = {}

    def advance(self) -> None:
        """Go on to the next front."""
        self._begin()
        self.positions.advance()

    def again(self) -> None:
        """Compute the same front once more, with more of its pixels' channels known."""
        self._begin()
        self.positions.again()

    def gather(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Remember the leaf's input (B, C, 1, P) and return what its taps read, (B, taps * C, 1, P'), tap by tap."""
        seen = self.positions.remember(self._following(layer), x)
        if seen is None:
            return x.new_zeros(x.shape[0], len(layer.taps) * x.shape[1], 1, 1)
        # A leaf may write into what it is given.
        return _images(seen[0].clone() if seen[1] else seen[0], x.shape[0])

    def linear(self, layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Gather, then multiply by a matrix (out, taps * C) and add a bias (out,): (B, out, 1, P')."""
        seen = self.positions.remember(self._following(layer), x)
        if seen is None:
            return x.new_zeros(x.shape[0], weight.shape[0], 1, 1)
        return _images(F.linear(seen[0], weight, bias), x.shape[0])

    def here(self, layer: nn.Module, x: Tensor, images: Tensor) -> Tensor:
        """What images (B, C, H, W), known as a whole, hold at the positions of x: (B, C, 1, P), not to be changed."""
        return self.positions.take(images, self.reads[self._following(layer)].lag)

    def once(self, layer: nn.Module, make: Callable[[], Any], *of: Any) -> Any:
        """What ``make()`` gives, made once for all fronts: a weight in the layout of the product, a condition's bias.

        Made again where ``of``, what it is made of beside the layer's parameters, are other objects than last time.
        """
        # By its code: a function made anew in each pass has the same.
        key = layer, make.__code__
        made_of, made = self._kept.get(key, (None, None))
        if made_of is None or any(map(is_not, made_of, of)):
            made = make()
            self._kept[key] = of, made
        return made

    def _begin(self) -> None:
        if self._next not in (0, len(self.reads)):
            left_out = title(self.reads[self._next].layer)
            raise CausalityError(f"forward took another path than its dry run: it left {left_out} out")
        self._next = 0

    def _following(self, layer: nn.Module) -> int:
        index = self._next
        if index >= len(self.reads) or self.reads[index].layer is not layer:
            raise CausalityError(f"forward took another path than its dry run: {title(layer)} came unexpected")
        self._next += 1
        return index


def _images(rows: Tensor, batch: int) -> Tensor:
    """Rows (P * B, C) as images (B, C, 1, P)."""
    return rows.view(1, -1, batch, rows.shape[1]).permute(2, 3, 0, 1)


class Schedule(Protocol):
    """A way over an image that fits a module: :class:`zoo.wavefront.Schedule` or :class:`zoo.rowwise.Schedule`."""

    lag: int
    reads: tuple[Read, ...]
    input_lag: int

    def fronts(self, height: int, width: int) -> int:
        """How many fronts an image of this size takes."""

    def positions(self, height: int, width: int) -> Positions:
        """Those of an image of this size."""

    def bytes_per_image(self, image_shape: Sequence[int], element_size: int, outputs: int = 1) -> int:
        """What the run over fronts holds for each image."""


def over_fronts(schedule: Schedule, height: int, width: int, context: Context) -> Iterator[tuple[Context, Front]]:
    """Go through all fronts of an image: the context to call the module with, and the front it holds."""
    front = Front(schedule.reads, schedule.positions(height, width))
    context = replace(context, front=front)
    for _ in range(schedule.fronts(height, width)):
        front.advance()
        yield context, front


def dry_images(module: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """For dry runs: a tiny image, and three whole ones, each with a NaN in another place, which must stay there."""
    parameter = next(module.parameters(), torch.zeros(()))
    height, width = getattr(module, "image_shape", (channels, 28, 28))[1:]
    tiny = torch.ones(1, channels, 1, 2, dtype=parameter.dtype, device=parameter.device)
    whole = tiny[..., :1].repeat(3, 1, height, width)
    for image, place in enumerate([(height // 2, width // 3), (0, 0), (height - 1, width - 1)]):
        whole[image, :, *place] = torch.nan
    return tiny, whole


def side_by_side(memory: Tensor, positions: int, step: int, runs: Sequence[tuple[int, int, int]]) -> Tensor:
    """What several positions see of a memory of cells (..., B, C): (positions * B, taps * C).

    Args:
        step: how many cells from one position to the next.
        runs: the taps of the first position, as evenly spaced cells: first, step, length.
    """
    batch, channels = memory.shape[-2:]
    cell = batch * channels
    seen = [
        memory.as_strided(
            (positions, batch, length, channels), (step * cell, channels, spacing * cell, 1), first * cell
        )
        for first, spacing, length in runs
    ]
    together = seen[0] if len(seen) == 1 else torch.cat(seen, 2)
    return together.reshape(positions * batch, -1)


def runs(offsets: list[int]) -> list[tuple[int, int, int]]:
    """Split into evenly spaced ascending runs: (first, step, length) of each.

    Example:
        >>> runs([0, 1, 5, 7, 9, 2])
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
