"""``zoo check``: which inputs reach an output, by measurement and by proof, for any module.

Knows the contract, no layer and no model: a student's own module is checked as well as the zoo's.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import torch
from torch import Tensor, nn

from zoo import rowwise, wavefront
from zoo.causal import CausalityError, Context, Schedule, call, over_fronts, required, takes_context
from zoo.errors import RequestError
from zoo.sampling import sample, schedule_of, verify

Offset = tuple[int, int, int]


@dataclass(frozen=True)
class CheckReport:
    """What :func:`check` found.

    Args:
        causal: nothing reaches an output that must not.
        leaks: offsets (rows, columns, channel) from the output of inputs that reach it and must not; the channel counts
            from the output's own where channels are ordered, and from the first where they are not.
        blind_spot: the same for earlier inputs inside the bounding box of what reaches it that do not.
        verified: computing front by front gives the same; None if the module cannot run over fronts.
        schedule: the order it is computed in over fronts, "wavefront" or "rowwise", which proves, given the declared
            taps, that no later pixel is seen; None if there is none.
        slope: of a wavefront; None for the others.
        reached: how many inputs reach the output in the middle.
        notes: what else a reader should know, in sentences.
    """

    causal: bool
    leaks: list[Offset]
    blind_spot: list[Offset]
    verified: bool | None
    schedule: str | None
    slope: int | None
    reached: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Rule:
    """Which inputs (C, H, W) may reach an output.

    Args:
        shape: (C, H, W) of the input.
        taps: which alone may, if it has any.
        layer: whether an output may see its own position.
        colors: how many groups, in order, the channels of input and output fall into.
        strict: a layer's group sees those before it, not itself, as mask A has it.
        whole_row: an output may see all of its own row.
    """

    shape: tuple[int, int, int]
    taps: Iterable[tuple[int, int]] | None
    layer: bool
    colors: int = 1
    strict: bool = False
    whole_row: bool = False

    def allowed(self, place: tuple[int, int], color: int) -> Tensor:
        """What may reach the output at ``place`` in a color group: (C, H, W)."""
        channels, height, width = self.shape
        allowed = torch.zeros(height, width, dtype=torch.bool)
        if self.taps is None:
            last = (place[0] + 1) * width if self.whole_row else place[0] * width + place[1] + self.layer
            allowed.view(-1)[:last] = True
        else:
            # Taps below are never allowed, declared or not.
            for row, column in ((place[0] + di, place[1] + dj) for di, dj in self.taps if di <= 0):
                if 0 <= row < height and 0 <= column < width:
                    allowed[row, column] = True
        allowed = allowed.repeat(channels, 1, 1)
        if self.colors > 1:
            own = torch.arange(channels) * self.colors // channels
            sees = own <= color if self.layer and not self.strict else own < color
            allowed[:, *place] = sees & allowed[:, *place] if self.layer else sees
        return allowed

    def of_color(self, y: Tensor, color: int) -> Tensor:
        """One color group of an output at one place: (outputs,), or (..., colors)."""
        if self.colors == 1:
            return y
        return y[..., color] if y.ndim > 1 else y.chunk(self.colors)[color]

    def offsets(self, mask: Tensor, place: tuple[int, int], color: int) -> list[Offset]:
        """Where a mask (C, H, W) is true, as offsets from the output."""
        first = color * self.shape[0] // self.colors
        return sorted(
            (row - place[0], column - place[1], channel - first) for channel, row, column in mask.nonzero().tolist()
        )


class _WholeRow(nn.Module):
    """The input as a stream that sees whole rows holds it: known when the row is."""

    taps = ((0, 1), (0, 0))

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        front = None if context is None else context.front
        return x if front is None else front.gather(self, x).chunk(2, 1)[1]


class _Streams(nn.Module):
    """A block of several streams, each with the same input, and of its outputs, side by side, those of a slice.

    The first stream sees whole rows, the others are what a pixel may see.
    """

    def __init__(self, block: nn.Module, streams: int, outputs: slice) -> None:
        super().__init__()
        self.block, self.streams, self.outputs, self.whole_row = block, streams, outputs, _WholeRow()
        self.colors = getattr(block, "colors", 1)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        y = self.block(self.whole_row(x, context), *[x] * (self.streams - 1), context=context)
        return y if isinstance(y, Tensor) else torch.cat(y[self.outputs], 1)


def check(module: nn.Module, image_shape: Sequence[int] | None = None, *, layer: bool = False) -> CheckReport:
    """Measure what reaches an output of ``module``, in evaluation and in training mode, and hold it against the rules.

    A model must be strictly raster-causal: an output sees neither its own value nor a later one. The channels of a
    pixel follow each other: where a model's outputs fall into as many groups, group c may see the channels before c. A
    layer (it declares ``taps``, or ``layer`` says so) must reach nothing outside its taps, or, if it has none, nothing
    later than itself; where it orders its channels by ``colors``, that order is held, too.

    A block of several streams is run with the same input for each; its first stream may see its own row as a whole.

    Gradients find what reaches an output at the middle and in the corners; changing all forbidden inputs at once must
    leave the output as it is, to the last bit, which finds what gradients miss. Both run in float64 on a copy with
    jittered parameters, since a weight that happens to be zero would hide a path.

    Args:
        module: maps (B, C, H, W) to (B, ..., H, W), or several of the kind to as many; may take a context, or labels as
            second argument.
        image_shape: (C, H, W); by default the module's own, or its input channels at 28 x 28.
        layer: the module is a layer and may see its own position.

    Raises:
        RequestError: the module cannot be run on such images.

    Example:
        >>> from zoo.layers import MaskedConv2d
        >>> check(MaskedConv2d("A", 1, 4, 3)).causal
        True
        >>> check(nn.Conv2d(1, 4, 3, padding=1)).leaks
        [(0, 0, 0), (0, 1, 0), (1, -1, 0), (1, 0, 0), (1, 1, 0)]
    """
    module = _as_one(module)
    shape = _image_shape(module, image_shape)
    is_model = hasattr(module, "likelihood") and hasattr(module, "image_shape")
    if is_model and shape != tuple(module.image_shape):
        raise RequestError(f"the image shape is {shape}, but this model's is {tuple(module.image_shape)}; leave it out")
    layer = not is_model and (layer or hasattr(module, "taps"))
    taps = getattr(module, "taps", None) if layer else None
    jittered = _jittered(module)
    _, height, width = shape
    middle = (height // 2, width // 2)
    corners = [(row, column) for row in (0, height - 1) for column in (0, width - 1)]
    # Neither all even nor all odd rows and columns, which a module may treat differently.
    places = [middle, *corners, (min(middle[0] + 1, height - 1), width // 3)]

    strict = getattr(module, "mask_type", "B") == "A"
    rule = _Rule(shape, taps, layer, _colors(jittered, shape, layer), strict)
    leaks: set[Offset] = set()
    blind_spot: set[Offset] = set()
    modes: set[str] = set()
    reached_middle: list[Tensor] = []
    measured = [(jittered, rule)]
    if isinstance(jittered, _Streams):
        first = _Streams(jittered.block, jittered.streams, slice(1))
        measured.append((first, _Rule(shape, None, layer, whole_row=True)))
    for training in (False, True):
        for part, own in measured:
            part.train(training)
            for place, color in product(dict.fromkeys(places), range(own.colors)):
                reached = _reached(part, own, place, color)
                if part is jittered and place == middle and not training:
                    reached_middle.append(reached)
                    earlier = replace(own, taps=None).allowed(place, color)
                    blind_spot |= set(own.offsets(_bounding_box(reached) & ~reached & earlier, place, color))
                found = own.offsets(reached & ~own.allowed(place, color), place, color)
                leaks |= set(found)
                modes |= {"training" if training else "evaluation"} if found else set()
    seen = torch.stack(reached_middle).any(0)

    notes = [f"leaks in {' and '.join(sorted(modes))} mode"] if modes else []
    if not seen.any():
        notes.append("nothing at all reaches the output in the middle: the module does not look at its input")
    if leaks and not _leaks_as_it_is(module, rule, places):
        notes.append("leaks only once its weights have moved, as training does: a mask is not applied in forward")
    if modes == {"training"}:
        notes.append("a normalization that mixes positions or images, such as BatchNorm, does that; use channel-norm")
    if rule.colors > 1 and leaks and all(offset[:2] == (0, 0) for offset in leaks):
        notes.append(f"only channels of its own pixel leak: the outputs were taken as {rule.colors} groups, in order")
    elif not layer and not is_model and leaks and all(offset[:2] == (0, 0) for offset in leaks):
        notes.append("only its own position leaks: right for a type-B layer, which --layer allows, wrong for a model")
    jittered.eval()
    notes += _lying_leaves(jittered, shape)
    plan, verified = _over_fronts(module, jittered, shape, layer, is_model, notes)
    return CheckReport(
        causal=not leaks,
        leaks=sorted(leaks),
        blind_spot=sorted(blind_spot),
        verified=verified,
        schedule=None if plan is None else type(plan).__module__.rpartition(".")[2],
        slope=getattr(plan, "slope", None),
        reached=int(seen.sum()),
        notes=notes,
    )


def receptive_field(module: nn.Module) -> dict[str, int]:
    """What reaches the output in the middle of the last row: rows above, columns beside, and pixels in all."""
    shape = _image_shape(module, None)
    place = (shape[1] - 1, shape[2] // 2)
    offsets = [(row - place[0], column - place[1]) for row, column in seen_from(module, place).nonzero().tolist()]
    return {
        "rows_above": -min((row for row, _ in offsets), default=0),
        "columns_left": -min((column for _, column in offsets), default=0),
        "columns_right": max((column for _, column in offsets), default=0),
        "pixels": len(offsets),
    }


def seen_from(module: nn.Module, place: tuple[int, int]) -> Tensor:
    """Which pixels (H, W) reach the output of a model, or of a layer, at a place: booleans.

    Of several channels any counts, of the input as of the output.

    Example:
        >>> from zoo.layers import MaskedConv2d
        >>> seen_from(MaskedConv2d("A", 1, 1, 3), (1, 1))[:3, :4].int()
        tensor([[1, 1, 1, 0],
                [1, 0, 0, 0],
                [0, 0, 0, 0]], dtype=torch.int32)
    """
    rule = _Rule(_image_shape(module, None), taps=None, layer=True)
    return _reached(_jittered(module).eval(), rule, place, 0).any(0)


def _as_one(module: nn.Module) -> nn.Module:
    """The module, or what stands for a block of several streams."""
    streams = len(required(module)) if takes_context(type(module)) else 1
    return _Streams(module, streams, slice(1, None)) if streams > 1 else module


def _colors(module: nn.Module, shape: tuple[int, int, int], layer: bool) -> int:
    """Into how many groups, in order, input and output channels fall: a layer says so, of a model it is the image's."""
    if layer:
        return getattr(module, "colors", 1)
    with torch.no_grad():
        y = _run(module, torch.zeros(2, *shape, dtype=torch.float64))
    return shape[0] if y.shape[-3] % shape[0] == 0 and (y.ndim == 4 or y.shape[-3] == shape[0]) else 1


def _image_shape(module: nn.Module, given: Sequence[int] | None) -> tuple[int, int, int]:
    if given is not None:
        channels, height, width = given
        return channels, height, width
    if hasattr(module, "image_shape"):
        return tuple(module.image_shape)
    for part in module.modules():
        for name in ("in_channels", "channels"):
            if isinstance(getattr(part, name, None), int):
                return getattr(part, name), 28, 28
    return 1, 28, 28


def _jittered(module: nn.Module) -> nn.Module:
    module = _copied(module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.requires_grad:
                continue  # a mask, say, which training does not move
            scale = 0.5 / max(parameter[0].numel(), 1) ** 0.5 if parameter.ndim > 1 else 0.1
            parameter += scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module).cpu().double()
    except Exception as error:
        raise RequestError(f"{type(module).__name__} cannot be copied to float64: {error}") from error


def _leaks_as_it_is(module: nn.Module, rule: _Rule, places: Iterable[tuple[int, int]]) -> bool:
    module = _copied(module)
    return any(
        bool((_reached(module.train(training), rule, place, color) & ~rule.allowed(place, color)).any())
        for training in (False, True)
        for place in places
        for color in range(rule.colors)
    )


def _reached(module: nn.Module, rule: _Rule, place: tuple[int, int], color: int) -> Tensor:
    """Which inputs (C, H, W) of any image reach the first image's output at ``place``, in one of the color groups."""
    generator = torch.Generator().manual_seed(1)
    allowed = rule.allowed(place, color)
    reached = torch.zeros(rule.shape, dtype=torch.bool)

    def output(x: Tensor) -> Tensor:
        return rule.of_color(_run(module, x)[0, ..., place[0], place[1]], color)

    # Grey values and bits, some through gradients: comparisons and tables have none.
    for trial in range(3):
        x = torch.rand(2, *rule.shape, generator=generator, dtype=torch.float64)
        x = (x.round() if trial == 2 else x).requires_grad_()
        y = output(x)
        weights = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        if y.requires_grad:
            (gradient,) = torch.autograd.grad((weights * y).sum(), x, allow_unused=True)
            reached |= (gradient != 0).any(0) if gradient is not None else False
        # The first image keeps what it may see; all else changes, and so does the other image.
        with torch.no_grad():
            other = torch.rand(x.shape, generator=generator, dtype=torch.float64)
            other = 1 - x if trial == 2 else other
            other[0] = torch.where(allowed, x[0], other[0])
            if not torch.equal(output(other), y) and not (reached & ~allowed).any():
                reached |= _one_by_one(output, x.detach(), other, allowed)
    return reached


def _one_by_one(output: Callable[[Tensor], Tensor], x: Tensor, other: Tensor, allowed: Tensor) -> Tensor:
    """What gradients did not show: go from x to other one forbidden input at a time; which steps matter?"""
    reached = torch.zeros_like(allowed)
    x = x.clone()
    x[1][allowed] = other[1][allowed]
    y = output(x)
    for index in (~allowed).nonzero().tolist():
        x[:, *index] = other[:, *index]
        before, y = y, output(x)
        reached[*index] = not torch.equal(before, y)
    return reached


def _run(module: nn.Module, x: Tensor) -> Tensor:
    arguments: list[object] = [x]
    if takes_context(type(module)):
        arguments.append(_condition(module, x))
    else:
        arguments += [torch.arange(len(x)) % 2] * (len(required(module)) - 1)
    # Dropout draws the same in every run, so that only the input makes a difference.
    # Statistics and counters that a run leaves behind are left behind with its copy of the buffers.
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        try:
            y = torch.func.functional_call(module, buffers, tuple(arguments))
        except Exception as error:
            raise RequestError(
                f"{type(module).__name__} fails on a float64 input of shape {tuple(x.shape)}: "
                f"{type(error).__name__}: {error}; a module is checked in float64, and --image-shape C,H,W "
                "names the shape of its images"
            ) from error
        finally:
            torch.set_default_dtype(default)
    if not isinstance(y, Tensor) or y.shape[-2:] != x.shape[-2:]:
        shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise RequestError(
            f"{type(module).__name__} gives {shape} for {tuple(x.shape)}; an autoregressive module gives a tensor "
            "(B, ..., H, W), an output for each pixel"
        )
    if not y.isfinite().all():
        raise RequestError(f"{type(module).__name__} gives values that are not finite for inputs in [0, 1]")
    return y


def _condition(module: nn.Module, x: Tensor) -> Context:
    """Some condition for images x, of each kind that any part of the module takes."""
    sizes = {
        name: min((getattr(part, name) for part in module.modules() if getattr(part, name, None)), default=None)
        for name in ("num_classes", "vector_size", "map_channels")
    }
    classes, vector, channels = sizes.values()
    generator = torch.Generator().manual_seed(2)
    return Context(
        labels=None if classes is None else torch.arange(len(x)) % classes,
        vectors=None if vector is None else torch.randn(len(x), vector, generator=generator).to(x),
        maps=None if channels is None else torch.randn(len(x), channels, *x.shape[2:], generator=generator).to(x),
    )


def _bounding_box(seen: Tensor) -> Tensor:
    box = torch.zeros_like(seen)
    rows, columns = seen.any(0).any(1).nonzero(), seen.any(0).any(0).nonzero()
    if len(rows):
        box[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return box


def _lying_leaves(module: nn.Module, shape: tuple[int, int, int]) -> list[str]:
    """Hold every leaf inside the module against its own taps, on inputs of the shape it really gets."""
    shapes: dict[str, tuple[int, int, int]] = {}
    leaves = {name: part for name, part in module.named_modules() if name and hasattr(part, "taps")}
    hooks = [
        leaf.register_forward_hook(
            lambda _, inputs, __, name=name: shapes.update({name: tuple(inputs[0].shape[1:])} if inputs else {})
        )
        for name, leaf in leaves.items()
    ]
    with torch.no_grad():
        _run(module, torch.zeros(2, *shape, dtype=torch.float64))
    for hook in hooks:
        hook.remove()
    notes = []
    for name, leaf_shape in shapes.items():
        place = (leaf_shape[1] // 2, leaf_shape[2] // 2)
        rule = _Rule(leaf_shape, leaves[name].taps, layer=True)
        outside = _reached(leaves[name], rule, place, 0) & ~rule.allowed(place, 0)
        lies = {offset[:2] for offset in rule.offsets(outside, place, 0)}
        if lies:
            notes.append(f"{name} reads {sorted(lies)} outside its declared taps {leaves[name].taps}")
    return notes


def _over_fronts(
    module: nn.Module,
    jittered: nn.Module,
    shape: tuple[int, int, int],
    layer: bool,
    is_model: bool,
    notes: list[str],
) -> tuple[Schedule | None, bool | None]:
    """The way over an image, and whether the run over fronts gives what the whole image gives."""
    x = torch.rand(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    context = _condition(module, x)
    try:
        if isinstance(jittered, _Streams):
            plan = rowwise.schedule(jittered, shape[0], context=context, lag=0)
        elif layer:
            plan = wavefront.schedule(jittered, shape[0], context=context, lag=0, output_may_lag=True)
        else:
            plan = schedule_of(jittered, shape[0], context)
    except CausalityError as error:
        notes.append(f"does not run over fronts: {error}")
        return None, None
    if is_model:
        # As it is in both precisions, and with other weights: those that are zero as yet would hide a fault.
        return plan, all(
            verify(each, sample(each, 4, context=context), context=context).verified
            for each in (_copied(module).float(), _copied(module), jittered)
        )
    with torch.no_grad():
        whole = _run(jittered, x)
        by_fronts = torch.zeros(whole.shape, dtype=whole.dtype)
        for here, front in over_fronts(plan, *shape[1:], context):
            part = front.positions.take(x, plan.input_lag)
            front.positions.put(by_fronts, call(jittered, part, here), plan.lag)
    return plan, bool(torch.allclose(by_fronts, whole, rtol=1e-9, atol=1e-9))
