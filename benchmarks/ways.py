"""Two ways over the fronts of one gated model, side by side: along a slope, and row by row."""

import json
from collections.abc import Callable
from typing import Any

import click
import torch

from benchmarks.measure import alternate
from zoo import rowwise, wavefront
from zoo.causal import Context, Schedule, over_fronts
from zoo.models.gated_pixelcnn import GatedPixelCNN

WAYS = {"slope": wavefront.schedule, "rows": rowwise.schedule}


def gated(channels: int, layers: int, dilations: tuple[int, ...], side: int = 28) -> GatedPixelCNN:
    """The model, with fresh weights of seed 0."""
    torch.manual_seed(0)
    return GatedPixelCNN(channels=channels, layers=layers, dilations=dilations, image_shape=(1, side, side)).eval()


def over(model: GatedPixelCNN, plan: Schedule, batch: int) -> Callable[[], Any]:
    """All logits of a batch, front by front."""
    images = torch.rand(model.image_shape[1], model.image_shape[2], batch, 1).round().permute(2, 3, 0, 1)

    @torch.inference_mode()
    def run() -> None:
        for here, front in over_fronts(plan, *model.image_shape[1:], Context()):
            model(front.positions.take(images, plan.input_lag), here)

    return run


@click.command()
@click.option("--batches", default="1,64,256", show_default=True)
@click.option("--channels", default=48, show_default=True)
@click.option("--layers", default=6, show_default=True)
@click.option("--dilations", default="1", show_default=True, help="Of the blocks, in turn, as in 1,2,4.")
@click.option("--side", default=28, show_default=True, help="Pixels a side.")
@click.option("--rounds", default=5, show_default=True, help="Times that each side is measured.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list on stdout.")
def main(batches: str, channels: int, layers: int, dilations: str, side: int, rounds: int, as_json: bool) -> None:
    """Time one gated model both ways."""
    model = gated(channels, layers, tuple(map(int, dilations.split(","))), side)
    plans = {name: schedule(model, 1) for name, schedule in WAYS.items()}
    results = []
    for batch in map(int, batches.split(",")):
        sides = {name: over(model, plan, batch) for name, plan in plans.items()}
        for run in sides.values():
            run()
        seconds = alternate(sides, rounds)
        fronts = {f"{name}_fronts": plan.fronts(side, side) for name, plan in plans.items()}
        results.append(
            {"batch": batch, **{f"{name}_seconds": value for name, value in seconds.items()}, **fronts}
            | {"slope_over_rows": seconds["slope"] / seconds["rows"]}
        )
    if as_json:
        click.echo(json.dumps(results))
        return
    for result in results:
        slope, rows = (f"{result[f'{name}_seconds']:.3f} s, {result[f'{name}_fronts']} fronts" for name in WAYS)
        ratio = f"{result['slope_over_rows']:.2f} times as long"
        click.echo(f"batch {result['batch']:4}: along a slope {slope}; row by row {rows}; {ratio}")


if __name__ == "__main__":
    main()
