"""Along a slope: all pixels of one time t = j + s i are computed together.

A tensor of lag l holds, while front t is computed, the positions of time t - l: the input, the pixels drawn last, lags
by 1; a leaf turns lag l into max(0, l + max over its taps of (dj + s di)); pointwise work keeps the lag; tensors that
meet must have equal lags. :func:`schedule` finds the smallest slope for which that holds. A 7x7 type-A layer and any
number of 3x3 type-B layers have slope 4: 136 fronts for 28 x 28 pixels.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor, nn

from zoo.causal import (
    CausalityError,
    Context,
    DryFront,
    LagsDiffer,
    Read,
    Tap,
    dry_images,
    dry_run,
    runs,
    side_by_side,
    title,
)


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

    def positions(self, height: int, width: int) -> "Wavefront":
        """Those of an image of this size."""
        return Wavefront(self, height, width)

    def bytes_per_image(self, image_shape: Sequence[int], element_size: int, outputs: int = 1) -> int:
        """What the run over fronts holds for each image: bands, the largest gathered front, logits, noise, pixels."""
        channels, height, width = image_shape
        front = -(-width // self.slope)
        bands, gathered = 0, 0
        for read in self.reads:
            if not read.in_place:
                bands += _band(read, self.slope, height, width)[1] * read.channels
            # What it reads, and two tensors as wide as its output, of which its input's width is a fair guess.
            gathered = max(gathered, front * read.channels * (len(read.taps) + 2))
        # Logits are compared with the noise in float64, by way of a few tensors of their size.
        return element_size * (bands + gathered) + 8 * (4 * front * outputs + 3 * channels * height * width)


def schedule(
    module: nn.Module,
    channels: int,
    *,
    context: Context | None = None,
    lag: int = 1,
    output_may_lag: bool = False,
) -> Schedule:
    """Find the smallest slope with which ``module`` can run over fronts, by dry runs of its own forward.

    A last dry run is the proof: on three whole images, each with a NaN in another place, which must stay there.
    What moves or spreads it mixes positions or images without declaring taps.

    Args:
        module: anything whose leaves follow the contract.
        channels: C of its input (B, C, H, W).
        context: the condition of at least one image, for a conditional module.
        lag: of the input; 1 for a model, 0 for one that sees the channels before its own, or for a layer.
        output_may_lag: True for a layer, whose output may be behind; never for a model.

    Raises:
        CausalityError: a layer mixes positions, or no slope fits.

    Example:
        >>> from zoo.causal import Sequential
        >>> from zoo.layers import MaskedConv2d
        >>> schedule(Sequential(MaskedConv2d("A", 1, 8, 7), MaskedConv2d("B", 8, 1, 3)), channels=1).slope
        4
    """
    context = (context or Context()).each(lambda part: part[:1])
    tiny, whole = dry_images(module, channels)
    by_channel = lag == 0 and not output_may_lag
    slope, limit = 1, 1
    while slope <= limit:
        front = DryFront(_rule(slope, by_channel))
        try:
            output_lag = dry_run(module, tiny, context, lag, front)
        except LagsDiffer:
            output_lag = None
        # Beyond the sum of all reaches to the right, a row further up always outweighs them: no new case comes.
        limit = max(limit, 1 + lag + sum(read.reach[2] + by_channel for read in front.reads))
        if output_lag == 0 or (output_may_lag and output_lag is not None):
            dry_run(module, whole, context, lag, DryFront(_rule(slope, by_channel)))
            return Schedule(slope, output_lag, tuple(front.reads), lag)
        slope += 1
    # A layer that mixes positions without declaring taps is the likelier reason, and has a name.
    with suppress(LagsDiffer):
        dry_run(module, whole, context, lag, DryFront(_rule(limit, by_channel)))
    raise CausalityError(
        f"no slope up to {limit} lets {title(module)} run over fronts: its output sees its own pixel or a later "
        "one, or streams that meet are not aligned; begin with a type-A mask, or shift one stream"
    )


def _rule(slope: int, by_channel: bool) -> Callable[[int, tuple[Tap, ...]], int]:
    def rule(lag: int, taps: tuple[Tap, ...]) -> int:
        # While a front is drawn channel by channel, what it holds of its own pixels is not complete: only the pixel
        # itself, whose channels are ordered, may be seen.
        complete = max(lag, 1) if by_channel else lag
        return max(0, *((lag if tap == (0, 0) else complete) + tap[1] + slope * tap[0] for tap in taps))

    return rule


class Wavefront:
    """The fronts of an image: tap (di, dj) of an output pixel lies a fixed number of them back.

    Args:
        schedule: from :func:`schedule`.
        height, width: the image's size in pixels.
    """

    def __init__(self, schedule: Schedule, height: int, width: int) -> None:
        self.schedule, self.height, self.width = schedule, height, width
        self.time = -1
        self._bands: list[_Band | None] = [None] * len(schedule.reads)
        self._spans: dict[int, tuple[int, int, int]] = {}

    def advance(self) -> None:
        """Go on to the next front."""
        self.time += 1
        self._spans.clear()

    def again(self) -> None:
        """Go through the same front once more."""

    def take(self, images: Tensor, lag: int) -> Tensor:
        """What images (B, C, H, W) hold at this front's positions, for a tensor that lags so: a view (B, C, 1, P).

        A row must be further from the next in memory than a column, as it is in all usual layouts.
        A front without positions goes on with one that is nowhere, since layers do not like empty images.
        """
        low, _, end = self._rows(lag)
        return self._diagonal(images, lag, low, end)

    def put(self, images: Tensor, values: Tensor, lag: int) -> None:
        """Write values (B, C, 1, P) to this front's positions of images (B, C, H, W)."""
        low, high, _ = self._rows(lag)
        if high > low:
            self._diagonal(images, lag, low, high).copy_(values)

    def count(self, lag: int) -> int:
        """How many pixels of each image a tensor that lags so holds in this front."""
        low, high, _ = self._rows(lag)
        return high - low

    def remember(self, index: int, x: Tensor) -> tuple[Tensor, bool]:
        """Keep the input of a read; what its taps see, a row for each position and image."""
        read = self.schedule.reads[index]
        if read.in_place:
            return x.permute(3, 2, 0, 1).reshape(-1, x.shape[1]), True
        band = self._bands[index]
        if band is None:
            band = self._bands[index] = _Band(read, self.schedule.slope, self.height, self.width, x)
        band.write(x, self.time, *self._rows(read.lag)[:2])
        # What is not put together from several runs is a view of the memory.
        return band.read(self.time, *self._rows(read.output_lag)), len(band.runs) == 1

    def _rows(self, lag: int) -> tuple[int, int, int]:
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
        self.depth, cells, self.origin = _band(read, slope, height, width)
        self.batch, self.channels = len(x), x.shape[1]
        self.cell = self.batch * self.channels
        self.memory = x.new_zeros(cells, self.batch, self.channels)
        self.runs = runs([(self.depth - slope) * di - dj for di, dj in read.taps])

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
        start = self.origin + self.depth * low - time
        return side_by_side(self.memory, end - low, self.depth, [(start + first, *run) for first, *run in self.runs])

    def _rows(self, time: int, low: int, high: int) -> Tensor:
        return self.memory.as_strided(
            (self.batch, self.channels, 1, high - low),
            (self.channels, 1, 1, self.depth * self.cell),
            (self.origin + self.depth * low - time) * self.cell,
        )


def _ages(read: Read, slope: int) -> list[int]:
    """How many fronts back each tap lies."""
    return [read.output_lag - read.lag - dj - slope * di for di, dj in read.taps]


def _band(read: Read, slope: int, height: int, width: int) -> tuple[int, int, int]:
    """What :class:`_Band` needs: its depth, its cells, and which of them position (0, 0) has."""
    up, left, right = read.reach
    depth = max(slope, max(_ages(read, slope)) + 1)
    origin = (depth - slope) * up + width - 1 + right
    return depth, origin + (depth - slope) * (height - 1) + left + 1, origin
