"""Validation curves of several trainings in one plot: against epochs, and against minutes of training."""

import json
from pathlib import Path

import click

from zoo import plots
from zoo.run_folder import read_metrics

Line = dict[str, float]


def read(run: Path) -> tuple[str, list[Line]]:
    """What to call a run folder, with its number of parameters, and its metrics, epoch by epoch.

    Without the nats of training, which begin so high that nothing could be told apart.
    """
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    lines = [{key: value for key, value in line.items() if key != "train_nats"} for line in read_metrics(run)]
    return f"{run.name} ({config['parameters']:,} parameters)", lines


def table(curves: dict[str, list[Line]]) -> str:
    """The last epoch of each run, as Markdown."""
    rows = ["| run | epochs | minutes | nats per validation image |", "|---|---|---|---|"]
    for name, lines in curves.items():
        last = lines[-1]
        nats = f"{last['validation_nats']:.2f} ± {last['validation_std_error']:.2f}"
        rows.append(f"| {name} | {last['epoch']:.0f} | {last['seconds'] / 60:.1f} | {nats} |")
    return "\n".join(rows)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="PATH.png for the curves.")
def main(runs: tuple[Path, ...], output: Path | None) -> None:
    """Compare the run folders RUNS, as zoo train leaves them."""
    curves = dict(map(read, runs))
    if output is not None:
        plots.save_curves(curves, output)
    click.echo(table(curves))


if __name__ == "__main__":
    main()
