"""Plots as PNG: training curves, a map of nats over the image, bars for classes, what a model sees."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.files import writing

Line = Mapping[str, float]


def curves(runs: Mapping[str, Sequence[Line]]) -> bytes:
    """Nats of training and validation, as ``metrics.jsonl`` has them, against epochs and against minutes.

    Args:
        runs: the lines of each run, by name.

    Example:
        >>> line = {"epoch": 1, "seconds": 60.0, "train_nats": 90.0, "validation_nats": 85.0}
        >>> curves({"mine": [line]})[1:4]
        b'PNG'
    """
    figure = _figure(10, 4.2)
    left, right = figure.subplots(1, 2, sharey=True)
    for number, (name, lines) in enumerate(runs.items()):
        for key, style in (("validation_nats", "o-"), ("train_nats", ":")):
            known = [line for line in lines if key in line]
            if not known:
                continue  # nor is it in the legend
            label = f"{_words(name)}, {key.removesuffix('_nats')}"
            nats = [line[key] for line in known]
            left.plot([line["epoch"] for line in known], nats, style, color=f"C{number}", label=label)
            right.plot([line["seconds"] / 60 for line in known], nats, style, color=f"C{number}", label=label)
    left.set(xlabel="epochs", ylabel="nats per image")
    right.set(xlabel="minutes of training")
    left.xaxis.get_major_locator().set_params(integer=True)
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return _png(figure)


def save_curves(runs: Mapping[str, Sequence[Line]], path: Path) -> None:
    """Write :func:`curves`."""
    with writing(path) as staged:
        staged.write_bytes(curves(runs))


def heat_maps(maps: Mapping[str, Tensor]) -> bytes:
    """Nats of each pixel (H, W), one map beside the other on one scale.

    Example:
        >>> import torch
        >>> heat_maps({"mine": torch.rand(8, 8)})[1:4]
        b'PNG'
    """
    figure = _figure(1 + 3.6 * len(maps), 3.6)
    highest = max(float(one.max()) for one in maps.values())
    row = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (name, one) in zip(row, maps.items(), strict=True):
        picture = axes.imshow(one.cpu().numpy(), vmin=0, vmax=highest, cmap="magma")
        axes.set(title=_words(name), xticks=[], yticks=[])
    figure.colorbar(picture, ax=list(row), label="nats per pixel")
    return _png(figure)


def bars(groups: Sequence[str], values: Mapping[str, Sequence[float]], label: str) -> bytes:
    """A bar for each group, those of several models side by side.

    Example:
        >>> bars(["0", "1"], {"mine": [55.0, 33.0]}, "nats per image")[1:4]
        b'PNG'
    """
    figure = _figure(min(16, max(6, 0.9 * len(groups))), 3.4)
    axes = figure.subplots()
    width = 0.8 / len(values)
    for number, (name, heights) in enumerate(values.items()):
        places = [group + width * (number - (len(values) - 1) / 2) for group in range(len(groups))]
        axes.bar(places, heights, width, label=_words(name))
    # On end where they would run into each other.
    turned = 90 if len(groups) > 16 or max(map(len, groups)) > 10 else 0
    axes.set_xticks(range(len(groups)), [_words(group)[:24] for group in groups], rotation=turned)
    axes.set_ylabel(label)
    axes.grid(axis="y", alpha=0.3)
    if len(values) > 1:
        # Above the bars, which would hide behind it.
        figure.legend(loc="outside upper center", ncols=2)
    return _png(figure)


def seen(fields: Mapping[str, Tensor], place: tuple[int, int]) -> bytes:
    """Which pixels (H, W), as booleans, reach the output at a place, for each model.

    Example:
        >>> import torch
        >>> seen({"mine": torch.ones(8, 8, dtype=torch.bool)}, (4, 4))[1:4]
        b'PNG'
    """
    figure = _figure(0.4 + 3.2 * len(fields), 3.4)
    for axes, (name, field) in zip(figure.subplots(1, len(fields), squeeze=False)[0], fields.items(), strict=True):
        axes.imshow(field.cpu().numpy(), vmin=0, vmax=1, cmap="Blues")
        axes.plot(place[1], place[0], "s", color="C3", markersize=5)
        axes.set(title=_words(name), xticks=[], yticks=[])
    return _png(figure)


def _words(name: str) -> str:
    """A name as a label: no formula, and not hidden from a legend."""
    return name.replace("$", r"\$").lstrip("_")


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Any) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
