"""Images per second and peak memory in training: the zoo's step against the textbook's.

The textbook: full kernels, masked before each pass, a batch normalization after each, float32, the default memory
layout, an ordinary DataLoader.
The zoo: its trainer's own step, as ``zoo train`` runs it.
"""

import itertools
import json
from collections.abc import Callable

import click
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import textbook
from benchmarks.course import named
from benchmarks.measure import alternate, peak_bytes
from zoo import catalog
from zoo.causal import Context
from zoo.data import ImageSet, to_grid
from zoo.models import PixelModel
from zoo.recipe import Recipe, find_recipe, load_recipe
from zoo.training import order, start, step

STEPS = 4

Steps = Callable[[], list[float]]
"""A few steps of a training, and their losses."""


def recipe_for(name: str, batch: int, precision: str = "auto") -> Recipe:
    """The recipe of a zoo model with another batch size; the course's model takes that of pixelcnn-mnist."""
    path = find_recipe("pixelcnn") if name == "course" else catalog.find(name) / "recipe.yaml"
    return load_recipe(path, [f"training.batch_size={batch}", f"training.precision={precision}"])


def zoo_steps(model: PixelModel, recipe: Recipe, data: ImageSet) -> Steps:
    """A few steps of the zoo's trainer."""
    run = start(model, recipe)
    data = data.to(next(run.model.parameters()).device)
    batches = order(0, 0, len(data)).split(recipe.training.batch_size)

    def steps() -> list[float]:
        return [step(recipe, run, data, batches[run.step % len(batches)], 100_000) for _ in range(STEPS)]

    return steps


class Images(Dataset):
    """One image at a time, as data sets with a transform give them."""

    def __init__(self, data: ImageSet, protocol: str) -> None:
        self.data, self.protocol = data, protocol

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return to_grid(self.data.images[index], self.protocol), self.data.labels[index]


def textbook_steps(model: PixelModel, recipe: Recipe, data: ImageSet) -> Steps:
    """A few steps as a course's training loop takes them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = textbook.to_train(model).train().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.optimizer.learning_rate)
    loader = DataLoader(Images(data, recipe.data.protocol), batch_size=recipe.training.batch_size, shuffle=True)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    def steps() -> list[float]:
        losses = []
        for _ in range(STEPS):
            x, labels = (tensor.to(device) for tensor in next(batches))
            logits = model(x, Context(labels=labels if model.num_classes is not None else None))
            loss = nn.functional.binary_cross_entropy_with_logits(logits, x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return steps


SIDES = {"textbook": textbook_steps, "zoo": zoo_steps}


def prepared(side: str, name: str, batch: int) -> Steps:
    """The steps of one side, and all that they need."""
    recipe = recipe_for(name, batch)
    return SIDES[side](named(name), recipe, recipe.data.read("train"))


def measure(name: str, batch: int, rounds: int) -> dict[str, float | int]:
    """Both sides in turn."""
    peak = {side: peak_bytes(prepared, side, name, batch) for side in SIDES}
    sides = {side: prepared(side, name, batch) for side in SIDES}
    for steps in sides.values():
        steps()
    seconds = alternate(sides, rounds)
    speed = {side: STEPS * batch / seconds[side] for side in SIDES}
    return {
        "textbook_images_per_second": speed["textbook"],
        "zoo_images_per_second": speed["zoo"],
        "ratio": speed["zoo"] / speed["textbook"],
        "textbook_peak_bytes": peak["textbook"],
        "zoo_peak_bytes": peak["zoo"],
    }


@click.command()
@click.argument("model", default="course")
@click.option("--batch", default=64, show_default=True, help="Images per step.")
@click.option("--rounds", default=8, show_default=True, help=f"Times that each side takes {STEPS} steps.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def main(model: str, batch: int, rounds: int, as_json: bool) -> None:
    """Train MODEL, "course" or a name of the zoo, as a textbook does and as the zoo does."""
    result = measure(model, batch, rounds)
    if as_json:
        click.echo(json.dumps({"model": model, "batch": batch} | result))
        return
    for side in SIDES:
        speed, peak = result[f"{side}_images_per_second"], result[f"{side}_peak_bytes"]
        click.echo(f"{side:9} {speed:8.1f} images/s {peak / 2**20:8.0f} MiB")
    click.echo(f"ratio     {result['ratio']:8.2f}")


if __name__ == "__main__":
    main()
