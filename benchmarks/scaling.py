"""Time per image against the image's size: front by front, and the textbook's one forward pass per pixel.

The course's model with fresh weights, in one process, both samplers in turn. Of the textbook's passes some are timed
and the rest counted as equally long.
"""

import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from benchmarks import textbook
from benchmarks.course import Course
from benchmarks.measure import alternate
from benchmarks.sampling import fast, naive

Row = dict[str, float]


def measure(side: int, batch: int, channels: int, layers: int, rounds: int) -> Row:
    """Seconds per image of both samplers, for square images of so many pixels a side."""
    torch.manual_seed(0)
    model = Course(channels, layers, (1, side, side)).eval()
    plain = textbook.to_sample(model)
    one = naive(plain, batch, "channels_last", 1)
    one()
    began = time.perf_counter()
    one()
    passes = max(1, min(16, round(0.5 / (time.perf_counter() - began))))
    sides = {"naive": naive(plain, batch, "channels_last", passes), "fast": fast(model, batch)}
    sides["fast"]()
    seconds = alternate(sides, rounds)
    naive_seconds = seconds["naive"] * side**2 / passes
    return {
        "side": side,
        "batch": batch,
        "naive_seconds_per_image": naive_seconds / batch,
        "fast_seconds_per_image": seconds["fast"] / batch,
        "speedup": naive_seconds / seconds["fast"],
        "textbook_passes_timed": rounds * passes,
    }


def slope(rows: Sequence[Row], name: str) -> float:
    """Of log seconds per image against log pixels, by least squares; 1 is in proportion to the pixels.

    Example:
        >>> round(slope([{"side": n, "s": 3.0 * n**4} for n in (2, 4, 8)], "s"), 6)
        2.0
    """
    x = [math.log(row["side"] ** 2) for row in rows]
    return statistics.linear_regression(x, [math.log(row[name]) for row in rows]).slope


def table(rows: Sequence[Row]) -> str:
    """Milliseconds per image and the ratio of both, as Markdown."""
    lines = ["| image | batch | textbook, ms per image | zoo, ms per image | times faster |", "|---|---|---|---|---|"]
    for row in rows:
        slow, quick = 1e3 * row["naive_seconds_per_image"], 1e3 * row["fast_seconds_per_image"]
        lines.append(
            f"| {row['side']} x {row['side']} | {row['batch']} | {slow:,.0f} | {quick:,.1f} | {row['speedup']:,.0f} |"
        )
    return "\n".join(lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Seconds per image against pixels, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    batches = sorted({row["batch"] for row in rows})
    for index, batch in enumerate(batches):
        chosen = [row for row in rows if row["batch"] == batch]
        pixels = [row["side"] ** 2 for row in chosen]
        colour = f"C{index}"
        axes.plot(pixels, [row["naive_seconds_per_image"] for row in chosen], "s--", color=colour, alpha=0.6)
        axes.plot(pixels, [row["fast_seconds_per_image"] for row in chosen], "o-", color=colour, label=f"batch {batch}")
    axes.plot([], [], "s--", color="grey", label="textbook: a pass per pixel")
    axes.plot([], [], "o-", color="grey", label="zoo: front by front")
    axes.set(xscale="log", yscale="log", xlabel="pixels per image", ylabel="seconds per image")
    sides = sorted({row["side"] for row in rows})
    axes.set_xticks([side**2 for side in sides], [f"{side}²" for side in sides])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


@click.command()
@click.option("--sides", default="14,28,56,112", show_default=True, help="Pixels a side.")
@click.option("--batches", default="1,16,64,256", show_default=True)
@click.option("--channels", default=128, show_default=True)
@click.option("--layers", default=9, show_default=True)
@click.option("--rounds", default=2, show_default=True, help="Times that each side is measured.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for scaling.md and scaling.png."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def main(sides: str, batches: str, channels: int, layers: int, rounds: int, output: Path | None, as_json: bool) -> None:
    """Time both samplers on images of several sizes and batches of several numbers."""
    rows = []
    for side in map(int, sides.split(",")):
        for batch in map(int, batches.split(",")):
            rows.append(measure(side, batch, channels, layers, rounds))
            click.echo(json.dumps(rows[-1]), err=True)
    slopes = {
        str(batch): {
            name: slope([row for row in rows if row["batch"] == batch], f"{name}_seconds_per_image")
            for name in ("naive", "fast")
        }
        for batch in sorted({row["batch"] for row in rows})
        if len({row["side"] for row in rows}) > 1
    }
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "scaling.md").write_text(table(rows) + "\n", encoding="utf-8")
        plot(rows, output / "scaling.png")
    if as_json:
        click.echo(json.dumps({"channels": channels, "layers": layers, "rows": rows, "slopes": slopes}))
        return
    click.echo(table(rows))
    for batch, found in slopes.items():
        click.echo(f"batch {batch}: time per image ~ pixels^{found['fast']:.2f} (textbook {found['naive']:.2f})")


if __name__ == "__main__":
    main()
