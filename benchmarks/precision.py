"""Loss curves in float32 and in bfloat16 autocast: the same weights, images and order, side by side."""

import json
import statistics
from pathlib import Path

import click

from benchmarks.course import named
from benchmarks.training import recipe_for
from zoo.training import order, start, step


def losses(name: str, batch: int, steps: int, precision: str) -> list[float]:
    """Nats per image of each step."""
    recipe = recipe_for(name, batch, precision)
    run = start(named(name), recipe)
    data = recipe.data.read("train").to(next(run.model.parameters()).device)
    batches = order(recipe.seed, 0, len(data)).split(batch)
    return [step(recipe, run, data, batches[index % len(batches)], 10 * steps) for index in range(steps)]


def plot(curves: dict[str, list[float]], title: str, path: Path) -> None:
    """Both curves, and below them their difference."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    for (name, curve), style in zip(curves.items(), ("-", "--"), strict=True):
        above.plot(curve, style, label=name, linewidth=1)
    above.set(yscale="log", ylabel="nats per image", title=title)
    above.legend()
    below.plot([b / a - 1 for a, b in zip(*curves.values(), strict=True)], color="grey", linewidth=1)
    below.set(xlabel="step", ylabel="relative\ndifference")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


@click.command()
@click.argument("model", default="course")
@click.option("--batch", default=64, show_default=True, help="Images per step.")
@click.option("--steps", default=200, type=click.IntRange(1), show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="PATH.png for the curves.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, with both curves.")
def main(model: str, batch: int, steps: int, output: Path | None, as_json: bool) -> None:
    """Train MODEL, "course" or a name of the zoo with the weights it has, twice."""
    curves = {precision: losses(model, batch, steps, precision) for precision in ("float32", "bfloat16")}
    last = {name: statistics.fmean(curve[-max(1, steps // 10) :]) for name, curve in curves.items()}
    if output is not None:
        plot(curves, f"{model}, batch {batch}", output)
    if as_json:
        click.echo(json.dumps({"model": model, "batch": batch, "steps": steps, "mean_of_last_tenth": last} | curves))
        return
    for name, value in last.items():
        click.echo(f"{name:9} {value:.3f} nats per image over the last tenth of {steps} steps")


if __name__ == "__main__":
    main()
