"""Seconds to draw a batch of samples: front by front, against the textbook's one forward pass per pixel.

The textbook: the same weights in plain ``nn.Conv2d`` layers with full kernels, in the faster of the two memory layouts.
Of its passes, one per pixel, some are timed and the rest counted as equally long.
"""

import json
from collections.abc import Callable
from typing import Any

import click
import torch

from benchmarks import textbook
from benchmarks.course import labels_for, named
from benchmarks.measure import alternate, peak_bytes
from zoo.causal import Context
from zoo.models import PixelModel
from zoo.sampling import verify

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def forward(model: PixelModel, batch: int, layout: str) -> Callable[[], Any]:
    """One forward pass over a batch."""
    model = model.to(memory_format=LAYOUTS[layout])
    x = torch.rand(batch, *model.image_shape).round().to(memory_format=LAYOUTS[layout])
    context = Context(labels=labels_for(model, batch))
    return torch.no_grad()(lambda: model(x, context))


def naive(model: PixelModel, batch: int, layout: str, passes: int) -> Callable[[], None]:
    """So many passes of the textbook sampler."""
    model = model.to(memory_format=LAYOUTS[layout])
    x = torch.zeros(batch, *model.image_shape).to(memory_format=LAYOUTS[layout])
    context = Context(labels=labels_for(model, batch))
    pixels = x[0, 0].numel()

    @torch.no_grad()
    def run() -> None:
        for index in range(passes):
            textbook.draw_pixel(model, x, index * pixels // passes, context)

    return run


def fast(model: PixelModel, batch: int) -> Callable[[], Any]:
    """A batch of the zoo's samples."""
    return lambda: model.sample(batch, labels_for(model, batch), seed=0)


def _textbook_forward(name: str, batch: int) -> Callable[[], Any]:
    return forward(textbook.to_sample(named(name)), batch, "channels_last")


def _fast(name: str, batch: int) -> Callable[[], Any]:
    return fast(named(name), batch)


def measure(model: PixelModel, batch: int, rounds: int, passes: int) -> dict[str, float | bool]:
    """All sides in turn; ``passes`` of the textbook sampler in each round."""
    plain = textbook.to_sample(model)
    layouts = {layout: forward(textbook.to_sample(model), batch, layout) for layout in LAYOUTS}
    for run in layouts.values():
        run()
    seconds = alternate(layouts, 3)
    layout = min(seconds, key=seconds.get)
    sides = {
        "naive": naive(plain, batch, layout, passes),
        "fast": fast(model, batch),
        "forward": layouts[layout],
        "own_forward": forward(model, batch, "channels_last"),
    }
    for run in sides.values():
        run()
    seconds = alternate(sides, rounds)
    pixels = model.image_shape[1] * model.image_shape[2]
    naive_seconds = seconds["naive"] * pixels / passes
    context = Context(labels=labels_for(model, batch))
    return {
        "naive_seconds": naive_seconds,
        "fast_seconds": seconds["fast"],
        "forward_seconds": seconds["forward"],
        "own_forward_seconds": seconds["own_forward"],
        "speedup": naive_seconds / seconds["fast"],
        "fast_over_forward": seconds["fast"] / seconds["forward"],
        "verified": verify(model, sides["fast"](), context=context).verified,
        "textbook_layout": layout,
        "textbook_passes_timed": rounds * passes,
    }


@click.command()
@click.argument("model", default="course")
@click.option("--batch", default=64, show_default=True, help="Samples to draw.")
@click.option("--rounds", default=6, show_default=True, help="Times that each side is measured.")
@click.option("--passes", default=4, show_default=True, help="Passes of the textbook sampler in each round.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def main(model: str, batch: int, rounds: int, passes: int, as_json: bool) -> None:
    """Draw samples of MODEL, "course" or a name of the zoo, as a textbook does and as the zoo does."""
    memory = {
        "forward_peak_bytes": peak_bytes(_textbook_forward, model, batch),
        "fast_peak_bytes": peak_bytes(_fast, model, batch),
    }
    result = {"model": model, "batch": batch} | measure(named(model), batch, rounds, passes) | memory
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in result.items():
        click.echo(f"{name:22} {value:.4g}" if isinstance(value, float) else f"{name:22} {value}")


if __name__ == "__main__":
    main()
