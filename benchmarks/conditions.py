"""What a condition is worth: nats of test images, and of samples, under their own one, under another's, and without."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import click
import torch
from torch import Tensor

import zoo
from zoo import catalog
from zoo.causal import nothing
from zoo.data import ImageSet
from zoo.evaluation import condition, evaluate
from zoo.models import PixelModel
from zoo.recipe import parse_data


@dataclass(frozen=True)
class Worth:
    """Nats per image: of test images, and of samples drawn under the conditions of these images.

    Args:
        own: each under its own condition.
        others: each under the next image's, which now and then is of the same class.
        none: without any, or None where the model was not trained without.
    """

    own: float
    others: float
    none: float | None = None


def of_images(model: PixelModel, data: ImageSet, **where: Any) -> Worth:
    """Nats of images that the model has not made."""
    return Worth(
        **{name: evaluate(model, kind, **where).nats_per_image for name, kind in _conditions(model, data).items()}
    )


def of_samples(model: PixelModel, data: ImageSet, seed: int = 0) -> Worth:
    """Nats of samples, drawn under the condition of each image of the data."""
    x = model.sample(len(data), **condition(model, data, slice(None)), seed=seed)
    kinds = _conditions(model, data)
    return Worth(
        **{
            name: -model.log_prob(x, **condition(model, kind, slice(None))).mean().item()
            for name, kind in kinds.items()
        }
    )


def _conditions(model: PixelModel, data: ImageSet) -> dict[str, ImageSet]:
    """The data with each image's own condition, the next one's, and none if the model has learned that."""
    kinds = {"own": data, "others": _changed(data, _next)}
    return kinds | ({"none": _changed(data, nothing)} if model.condition_dropout else {})


def _next(part: Tensor) -> Tensor:
    return part.roll(-1, 0)


def _changed(data: ImageSet, change: Callable[[Tensor], Tensor]) -> ImageSet:
    """The data with the conditions changed, not the images."""
    return replace(data.each(change), images=data.images)


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--images", default=2000, show_default=True, help="Test images.")
@click.option("--samples", default=200, show_default=True, help="Samples.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list on stdout.")
@torch.no_grad()
def main(models: tuple[str, ...], images: int, samples: int, as_json: bool) -> None:
    """Measure what the conditions of MODELS are worth, each on the data it was trained on."""
    rows = []
    for name in models:
        config, model = catalog.describe(name), zoo.load(name)
        data = parse_data(config["data_args"] | {"name": config["dataset"]}).read("test", None)
        where = {"dataset": config["dataset"], "split": "test", "protocol": config["protocol"]}
        worth = {
            "test images": of_images(model, data.each(lambda part: part[:images]), **where),
            "samples": of_samples(model, data.each(lambda part: part[:samples])),
        }
        rows += [{"model": config["name"], "of": of, **vars(measured)} for of, measured in worth.items()]
    if as_json:
        click.echo(json.dumps(rows))
        return
    click.echo("| model | nats of | own condition | another's | none |\n|---|---|---|---|---|")
    for row in rows:
        nats = (f"{row[kind]:.1f}" if row[kind] is not None else "-" for kind in ("own", "others", "none"))
        click.echo(f"| `{row['model']}` | {row['of']} | {' | '.join(nats)} |")


if __name__ == "__main__":
    main()
