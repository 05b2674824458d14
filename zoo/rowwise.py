"""Row by row: layers that see whole rows run once a row, all others pixel by pixel.

A tensor is of pixels or of rows. One of pixels, of lag l, holds in front t = i W + j the pixel that comes l before
(i, j) in raster order: the input, the pixels drawn last, lags by 1. One of rows holds in front (i, 0) the whole row
i - 1, from right to left, and in all other fronts nothing of interest (a zero, since layers do not like empty images).
A leaf of pixels whose taps look to the right of what is known gives rows; a leaf of rows gives rows, or pixels again
where all of its taps lie above. Pointwise work keeps the kind; tensors that meet must be of one kind and lag.

A two-stack model takes H W fronts this way, however far its vertical stack sees to the right, and its vertical stack
runs in one matrix product a row; the slope of :mod:`zoo.wavefront` grows with every pixel to the right. The stack must
see its own row and be shifted down once, where it joins; one that is masked in every layer is of no one kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

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

ROWS = 2**30
"""The lag of a tensor of rows."""


@dataclass(frozen=True)
class Schedule:
    """Which leaves run row by row, and what every one must remember.

    Args:
        reads: every look at neighbours, in the order of the forward pass.
        input_lag: 1 for a model that is given the pixels drawn last, 0 for one that sees the channels before its own.
        lag: of the output, always 0.
    """

    reads: tuple[Read, ...]
    input_lag: int = 1
    lag: int = 0

    def fronts(self, height: int, width: int) -> int:
        """How many fronts an image of this size takes."""
        return height * width

    def positions(self, height: int, width: int) -> "Rowwise":
        """Those of an image of this size."""
        return Rowwise(self, height, width)

    def bytes_per_image(self, image_shape: Sequence[int], element_size: int, outputs: int = 1) -> int:
        """What the run holds for each image: the last rows of every leaf, the largest gathered row, noise, pixels."""
        channels, height, width = image_shape
        remembered, gathered = 0, 0
        for read in self.reads:
            if not read.in_place:
                rows, cells = _size(read, width)
                remembered += rows * cells * read.channels
            # What it reads, and two tensors as wide as its output, of which its input's width is a fair guess.
            positions = width if read.output_lag == ROWS else 1
            gathered = max(gathered, positions * read.channels * (len(read.taps) + 2))
        return element_size * (remembered + gathered) + 8 * (4 * outputs + 3 * channels * height * width)


def schedule(module: nn.Module, channels: int, *, context: Context | None = None, lag: int = 1) -> Schedule:
    """Find out which leaves of ``module`` run row by row, by a dry run of its own forward, and prove that it is causal.

    Args:
        module: anything whose leaves follow the contract.
        channels: C of its input (B, C, H, W).
        context: the condition of at least one image, for a conditional module.
        lag: of the input; 1 for a model, 0 for one that sees the channels before its own.

    Raises:
        CausalityError: a layer mixes positions, or the kinds and lags do not fit.

    Example:
        >>> from zoo.models.gated_pixelcnn import GatedPixelCNN
        >>> model = GatedPixelCNN(channels=8, layers=6)
        >>> sum(read.output_lag == ROWS for read in schedule(model, 1).reads)  # the vertical stack
        7
    """
    context = (context or Context()).each(lambda part: part[:1])
    tiny, whole = dry_images(module, channels)
    front = DryFront(_rule)
    try:
        output_lag = dry_run(module, tiny, context, lag, front)
        dry_run(module, whole, context, lag, DryFront(_rule))
    except LagsDiffer:
        output_lag = None
    if output_lag != 0:
        raise CausalityError(
            f"{title(module)} cannot run row by row: its output sees its own pixel or a later one, or streams that "
            "meet are not of one kind; begin with a type-A mask, and shift a vertical stream down before it joins"
        )
    return Schedule(tuple(front.reads), lag)


def _rule(lag: int, taps: tuple[Tap, ...]) -> int:
    beside = [dj for di, dj in taps if di == 0]
    if lag == ROWS:
        return ROWS if beside else 0
    behind = max(0, lag + max(beside)) if beside else 0
    # What looks further ahead than its input has to wait for the whole row.
    return behind if behind <= lag else ROWS


def _size(read: Read, width: int) -> tuple[int, int]:
    """How many rows a leaf remembers, and of how many cells each."""
    up, left, right = read.reach
    # While a row is read as a whole, a pixel of the next one is there already.
    return up + 1 + (read.output_lag == ROWS != read.lag), left + width + right


class Rowwise:
    """The fronts of an image, one for each pixel in raster order.

    Args:
        schedule: from :func:`schedule`.
        height, width: the image's size in pixels.
    """

    def __init__(self, schedule: Schedule, height: int, width: int) -> None:
        self.schedule, self.height, self.width = schedule, height, width
        self.row, self.column = 0, -1
        self.first_pass = True
        self._memory: list[_Rows | None] = [None] * len(schedule.reads)

    def advance(self) -> None:
        """Go on to the next front."""
        self.first_pass = True
        self.column += 1
        if self.column == self.width:
            self.row, self.column = self.row + 1, 0

    def again(self) -> None:
        """Go through the same front once more: what is of rows is remembered already."""
        self.first_pass = False

    def take(self, images: Tensor, lag: int) -> Tensor:
        """What images (B, C, H, W) hold here: a pixel (B, C, 1, 1), or a row (B, C, 1, W) from right to left."""
        if lag == ROWS:
            if self._row_ends:
                return images[:, :, self.row - 1 : self.row].flip(3)
            return images[:, :, :1, :1]
        row, column = self._behind(lag)
        return images[:, :, max(row, 0) : max(row, 0) + 1, column : column + 1]

    def put(self, images: Tensor, values: Tensor, lag: int) -> None:
        """Write values (B, C, 1, 1) to this front's pixel of images (B, C, H, W)."""
        self.take(images, lag).copy_(values)

    def count(self, lag: int) -> int:
        """How many pixels of each image a tensor of pixels holds in this front."""
        return 1

    def remember(self, index: int, x: Tensor) -> tuple[Tensor, bool] | None:
        """Keep the input of a read; what its taps see, a row of the matrix for each position and image."""
        read = self.schedule.reads[index]
        if read.output_lag == ROWS and read.lag == ROWS and not self._row_ends:
            return None
        if read.in_place:
            return x.permute(3, 2, 0, 1).reshape(-1, x.shape[1]), True
        memory = self._memory[index]
        if memory is None:
            memory = self._memory[index] = _Rows(read, self.width, x)
        if read.lag != ROWS:
            row, column = self._behind(read.lag)
            if row >= 0:
                memory.write(x, row, column)
        elif self._row_ends:
            memory.write(x, self.row - 1, self.width - 1)
        if read.output_lag != ROWS:
            row, column = self._behind(read.output_lag)
            return memory.read(max(row, 0), column, 1)
        return memory.read(self.row - 1, self.width - 1, self.width) if self._row_ends else None

    @property
    def _row_ends(self) -> bool:
        """Whether tensors of rows hold one: the row before this one."""
        return self.column == 0 and self.row > 0 and self.first_pass

    def _behind(self, lag: int) -> tuple[int, int]:
        """The pixel that comes so many before this front's."""
        return divmod(self.row * self.width + self.column - lag, self.width)


class _Rows:
    """The last few rows of one leaf's input, each from right to left, between margins of zeros.

    Row i lies in place i modulo their number. Above the image are rows that are zero, since nothing was written there
    yet. Columns go from right to left, as taps are declared, so that the taps of a row are one view.
    """

    def __init__(self, read: Read, width: int, x: Tensor) -> None:
        self.rows, self.cells = _size(read, width)
        self.last = read.reach[2] + width - 1
        self.memory = x.new_zeros(self.rows, self.cells, *x.shape[:2])
        # Taps of one row that follow each other are read together.
        together = [(di, [-dj for _, dj in taps]) for di, taps in groupby(read.taps, key=lambda tap: tap[0])]
        self.runs = [(di, *run) for di, columns in together for run in runs(columns)]

    def write(self, x: Tensor, row: int, column: int) -> None:
        """Put x (B, C, 1, P) in its row; its first position is that column, the others follow to the left."""
        first = self.last - column
        self.memory[row % self.rows, first : first + x.shape[3]].copy_(x[:, :, 0].permute(2, 0, 1))

    def read(self, row: int, column: int, positions: int) -> tuple[Tensor, bool]:
        """What the taps see of so many positions, of which the first is that column: (positions * B, taps * C)."""
        first = self.last - column
        cells = [((row + di) % self.rows * self.cells + first + offset, *run) for di, offset, *run in self.runs]
        # What is not put together from several runs may be a view of the memory.
        return side_by_side(self.memory, positions, 1, cells), len(cells) == 1
