"""Masked convolution: sees the pixels that come first in raster order, with (B) or without (A) the centre."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from zoo.causal import Context, Tap


class MaskedConv2d(nn.Conv2d):
    r"""Convolve with the taps that come before the centre in raster order; a drop-in for ``nn.Conv2d``.

    .. math:: y_{ij} = b + \sum_{(u, v) \in \text{taps}} W_{uv} x_{i+u, j+v}

    with taps :math:`u < 0`, or :math:`u = 0` and :math:`v < 0` (mask A), or :math:`u = 0` and :math:`v \le 0` (mask B).

    With ``colors`` > 1 the channels of both sides fall into so many equal groups, in order, such as R, G and B. At the
    centre, group k sees the groups before it (mask A), or those and itself (mask B).

    Maps (B, in_channels, H, W) to (B, out_channels, H, W). The weight is k x k, as in textbook code, whose state
    dicts load; what the mask kills is zero and the rows below the centre are never computed.

    Reference: van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016, section 3.4.
    Deviation: weights start at the scale of the live taps, not of all k x k.

    Args:
        mask_type: "A" hides the centre (first layer), "B" shows it (every later layer).
        in_channels, out_channels: as in ``nn.Conv2d``.
        kernel_size: odd, one number or (rows, columns).
        stride, padding, padding_mode: only what keeps the image's size: 1, "same" (or its number), "zeros".
        dilation, groups, bias, device, dtype: as in ``nn.Conv2d``.
        colors: how many groups the channels are ordered by; the image's channels, or 1 for no order.

    Raises:
        ValueError: a mask type, kernel size, stride, padding or number of colors that is none of the above.

    Example:
        >>> layer = MaskedConv2d("A", 1, 16, 7, padding=3)
        >>> layer(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 16, 28, 28])
        >>> MaskedConv2d("A", 1, 16, 3).taps
        ((-1, 1), (-1, 0), (-1, -1), (0, -1))
        >>> MaskedConv2d("A", 3, 3, 1, colors=3).weight[:, :, 0, 0] != 0
        tensor([[False, False, False],
                [ True, False, False],
                [ True,  True, False]])
    """

    check_with = {"mask_type": "B", "in_channels": 2, "out_channels": 3, "kernel_size": 5}

    def __init__(
        self,
        mask_type: Literal["A", "B"],
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | Literal["same"] = "same",
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        colors: int = 1,
    ) -> None:
        rows, columns = _pair(kernel_size)
        reach = _pair(dilation)[0] * (rows // 2), _pair(dilation)[1] * (columns // 2)
        if mask_type not in ("A", "B"):
            raise ValueError(f'mask_type is {mask_type!r}; it must be "A" (hides the centre) or "B" (shows it)')
        if rows % 2 == 0 or columns % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; it must be odd, so that there is a centre")
        if mask_type == "A" and rows == columns == colors == 1:
            raise ValueError("a 1x1 kernel with mask type A sees nothing; use mask type B or a larger kernel")
        if colors < 1 or in_channels % colors or out_channels % colors or (colors > 1 and groups > 1):
            raise ValueError(
                f"colors is {colors}, channels {in_channels} and {out_channels}, groups {groups}; both channels must "
                "be multiples of colors, and groups 1 where there are several colors"
            )
        same_size = padding == "same" or _pair(padding) == reach
        if _pair(stride) != (1, 1) or padding_mode != "zeros" or not same_size:
            raise ValueError(
                f"stride is {stride}, padding {padding!r}, padding_mode {padding_mode!r}; an autoregressive layer "
                f'keeps the image\'s size: stride 1, padding "same" (here {reach}), padding_mode "zeros"'
            )
        # Before the parent draws the weights, which depend on the mask.
        self.mask_type, self.colors = mask_type, colors
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            padding=reach,
            dilation=dilation,
            groups=groups,
            bias=bias,
            device=device,
            dtype=dtype,
        )

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The offsets (rows, columns) that the mask leaves alive, row by row, each from right to left."""
        (rows, columns), (down, right) = self.kernel_size, self.dilation
        return tuple(
            (down * (row - rows // 2), right * (column - columns // 2))
            for row in range(rows // 2 + 1)
            for column in reversed(range(columns))
            if row * columns + column < self._live
        )

    @property
    def _live(self) -> int:
        # In raster order the live taps are the first ones: all before the centre, and the centre for mask B.
        rows, columns = self.kernel_size
        return rows // 2 * columns + columns // 2 + (self.mask_type == "B" or self.colors > 1)

    def _masked(self) -> Tensor:
        """The rows of the weight that see anything, its dead values zero: (out, in, rows, columns)."""
        rows, columns = self.kernel_size
        weight = self.weight[:, :, : rows // 2 + 1]
        live = torch.arange(weight[0, 0].numel(), device=weight.device) < self._live
        weight = weight * live.view(weight.shape[2:])
        if self.colors == 1:
            return weight
        color = torch.arange(self.colors, device=weight.device)
        seen = color[:, None] >= color if self.mask_type == "B" else color[:, None] > color
        seen = seen.repeat_interleave(self.out_channels // self.colors, 0)
        seen = seen.repeat_interleave(self.in_channels // self.colors, 1)[:, :, None, None]
        at_centre = F.pad(torch.ones_like(seen), (columns // 2, columns // 2, rows // 2, 0))
        return weight * torch.where(at_centre, seen, True)

    def _side_by_side(self) -> Tensor:
        """The live taps as one matrix product takes them: (out, taps * in); with groups, (out, in, taps)."""
        (rows, columns), (down, right) = self.kernel_size, self.dilation
        taps = [(di // down + rows // 2) * columns + dj // right + columns // 2 for di, dj in self.taps]
        weight = self._masked().flatten(2)[..., taps]
        return weight.mT.flatten(1) if self.groups == 1 else weight.contiguous()

    def reset_parameters(self) -> None:
        """Draw weights uniformly with variance 1 / (3 fan-in) of the live taps; the dead ones are zero."""
        bound = 1 / math.sqrt(self.in_channels // self.groups * self._live)
        nn.init.uniform_(self.weight, -bound, bound)
        with torch.no_grad():
            live = self._masked()
            self.weight.zero_()[:, :, : live.shape[2]] = live
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Convolve a whole image, or multiply the live taps of a front."""
        if context is not None and context.front is not None:
            weight = context.front.once(self, self._side_by_side)
            if self.groups == 1:
                return context.front.linear(self, x, weight, self.bias)
            seen = context.front.gather(self, x)
            seen = seen.unflatten(1, (self._live, self.in_channels)).transpose(1, 2).flatten(1, 2)
            return F.conv2d(seen, weight.flatten(1)[..., None, None], self.bias, groups=self.groups)
        (above, beside), weight = self.padding, self._masked()
        if above:
            x = F.pad(x, (0, 0, above, 0))
        elif beside:
            # In a single row the columns right of the centre are as dead as rows below it.
            x, weight, beside = F.pad(x, (beside, 0)), weight[..., : self.kernel_size[1] // 2 + 1], 0
        return F.conv2d(x, weight, self.bias, padding=(0, beside), dilation=self.dilation, groups=self.groups)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # Textbook layers keep their mask as a buffer; ours is known from the mask type.
        state.pop(f"{prefix}mask", None)
        super()._load_from_state_dict(state, prefix, *args)

    def extra_repr(self) -> str:
        """The constructor's arguments, as ``repr`` shows them."""
        colors = f", colors={self.colors}" if self.colors > 1 else ""
        return f"{self.mask_type!r}, {super().extra_repr()}{colors}"
