"""Nats of validation images against the width of a Gaussian prior, where there are few images to train on."""

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from zoo.files import writing
from zoo.recipe import Recipe, find_recipe, load_recipe
from zoo.run_folder import read_metrics
from zoo.training import train


def trained(recipe: Recipe) -> dict[str, float]:
    """What a training of a recipe ends with: nats of training (in the last epoch) and of validation images.

    Also the fewest that validation images had on the way, and when: what stopping early could have gained.
    """
    with tempfile.TemporaryDirectory() as place:
        summary = train(recipe, Path(place) / "run")
        lines = read_metrics(Path(place) / "run")
    validation = summary["validation"]
    best = min(lines, key=lambda line: line["validation_nats"])
    return {
        "train_nats": lines[-1]["train_nats"],
        "validation_nats": validation["nats_per_image"],
        "validation_std_error": validation["nats_std_error"],
        "best_validation_nats": best["validation_nats"],
        "best_epoch": int(best["epoch"]),
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Nats against sigma; without a prior, a line across."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    priors = [row for row in rows if row["std"] is not None]
    for number, key in enumerate(("validation_nats", "train_nats")):
        label = key.removesuffix("_nats")
        axes.plot([row["std"] for row in priors], [row[key] for row in priors], "o-", color=f"C{number}", label=label)
        for row in rows:
            if row["std"] is None:
                axes.axhline(row[key], linestyle=":", color=f"C{number}", label=f"{label}, no prior")
    axes.set(xscale="log", xlabel="σ of the prior N(0, σ²)", yscale="log", ylabel="nats per image")
    axes.set_xticks([row["std"] for row in priors], [f"{row['std']:g}" for row in priors])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    axes.legend()
    with writing(path) as staged:
        figure.savefig(staged, format="png", dpi=110)


@click.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--recipe", default="few", show_default=True)
@click.option("--stds", default="0.02,0.03,0.05,0.07,0.1,0.2,0.5", show_default=True, help="Widths of the prior.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="PATH.png for the plot.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list on stdout.")
def main(overrides: tuple[str, ...], recipe: str, stds: str, output: Path | None, as_json: bool) -> None:
    """Train a recipe with priors of several widths, and without any."""
    rows = []
    for std in [*map(float, stds.split(",")), None]:
        spelled = "prior=" if std is None else f"prior.gaussian.std={std}"
        read = load_recipe(find_recipe(recipe), [*overrides, spelled])
        rows.append({"std": std, **trained(read)})
        click.echo(f"{rows[-1]}", err=True)
    if output is not None:
        plot(rows, output)
    if as_json:
        click.echo(json.dumps(rows))
        return
    click.echo("| σ | nats per training image, last epoch | nats per validation image | the fewest on the way |")
    click.echo("|---|---|---|---|")
    for row in rows:
        width = "no prior" if row["std"] is None else f"{row['std']:g}"
        validation = f"{row['validation_nats']:.2f} ± {row['validation_std_error']:.2f}"
        fewest = f"{row['best_validation_nats']:.2f}, epoch {row['best_epoch']}"
        click.echo(f"| {width} | {row['train_nats']:.2f} | {validation} | {fewest} |")


if __name__ == "__main__":
    main()
