"""What is found out about a model, and another one on the same images: the substance of a report."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo import catalog
from zoo.classifier import classifier
from zoo.data import ImageSet, levels_of, to_grid
from zoo.errors import RequestError
from zoo.evaluation import check_fit, pixel_nats, prompts
from zoo.models import PixelModel
from zoo.run_folder import RECIPE, read_metrics

Progress = Callable[[str, int, int], None]
SAMPLES = 1000
"""How many samples the classifier looks at."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, and what was measured of it.

    Args:
        name: what it is called on the page.
        config: its ``config.json``.
        lines: of its ``metrics.jsonl``, if that is there.
        recipe: the text of its ``recipe.yaml``, or "".
        nats: (N, H, W) of each pixel of the test images.
        samples: (S, C, H, W).
        asked: (S,) the labels of the samples, or None where the model takes none.
    """

    name: str
    model: PixelModel
    config: dict[str, Any]
    lines: list[dict[str, float]]
    recipe: str
    nats: Tensor
    samples: Tensor
    asked: Tensor | None

    @cached_property
    def per_image(self) -> Tensor:
        """Nats of each test image: (N,)."""
        return self.nats.double().sum((1, 2))


@dataclass(frozen=True, eq=False)
class Findings:
    """All that a report is about.

    Args:
        subjects: the model and, if there is one, the other.
        test: the test images, in an order of their own.
        images: the same as the models were shown them: (N, C, H, W) in [0, 1].
        protocol: what their pixels are, as the first was trained.
        judge: a classifier, or None where the data has no classes.
    """

    subjects: Sequence[Subject]
    dataset: str
    test: ImageSet
    images: Tensor
    protocol: str
    judge: nn.Module | None


def gather(
    place: Path,
    against: Path | None,
    dataset: str,
    read: Callable[[str], ImageSet],
    *,
    images: int | None = None,
    progress: Progress = lambda what, done, of: None,
) -> Findings:
    """Measure a model, and another one on the same images.

    Args:
        place, against: their folders.
        dataset, read: the name of a data set, and what gives a split of it.
        images: how many test images, drawn once for all, or all by default.
        progress: called with what is being done, how much of it is and how much there is.

    Raises:
        RequestError: a model has no weights, or does not fit the data.
    """
    config = catalog.describe(place)
    if config["protocol"] is None:
        raise RequestError(f"{place} does not say under which protocol it was trained; its config.json lacks it")
    test, protocol = read("test"), config["protocol"]
    # The first so many of them are looked at again and again, and of a folder these would be one class.
    drawn = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:images]
    test = test.each(lambda part: part[drawn])
    shown = to_grid(test.images, protocol, torch.Generator().manual_seed(0))
    models = [catalog.load(one) for one in (place, against) if one is not None]
    for model in models:
        # Before anything is measured, which takes minutes.
        check_fit(model, test)
        if model.likelihood.levels != levels_of(protocol):
            raise RequestError(
                f"protocol {protocol} makes images of {levels_of(protocol)} levels, one of the models has "
                f"{model.likelihood.levels}; compare models of one kind"
            )
    subjects = [_subject(place, models[0], test, shown, progress)]
    if against is not None:
        other = _subject(against, models[1], test, shown, progress)
        # Two runs of one recipe have one name, and pictures are files of that name.
        subjects.append(replace(other, name=f"{other.name}-2") if other.name == subjects[0].name else other)
    judge = None
    if test.num_classes is not None:
        judge = classifier(read("train"), protocol, progress=lambda done, of: progress("teaching a judge", done, of))
    return Findings(subjects, dataset, test, shown, protocol, judge)


def figures(found: Findings) -> list[dict[str, Any]]:
    """The main figures of each model, for other programs."""
    rows = []
    for subject in found.subjects:
        nats, error = mean(subject.per_image)
        rows.append(
            {
                "name": subject.name,
                "dataset": found.dataset,
                "protocol": found.protocol,
                "images": len(found.test),
                "nats_per_image": nats,
                "nats_std_error": error,
                "bits_per_dim": nats / found.images[0].numel() / math.log(2),
            }
        )
    return rows


def mean(values: Tensor) -> tuple[float, float]:
    """The mean of (N,), and its standard error."""
    return values.mean().item(), values.std().item() / math.sqrt(len(values)) if len(values) > 1 else 0.0


def takes(model: PixelModel) -> str:
    """What it is conditional on, in words."""
    return ", ".join(model.takes) or "nothing"


def class_names(found: Findings) -> list[str]:
    return list(found.test.classes or map(str, range(found.test.num_classes or 0)))


def by_class(found: Findings, values: Tensor) -> Tensor:
    """The mean of what belongs to the test images (N,) over each class, nan where there is none: (K,)."""
    return torch.stack([values[found.test.labels == one].mean() for one in range(found.test.num_classes)])


def _subject(place: Path, model: PixelModel, test: ImageSet, images: Tensor, progress: Progress) -> Subject:
    config = catalog.describe(place)
    # It will name files, and a stranger may have chosen it.
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", config["name"]).strip(".-_")[:96] or "model"
    nats = pixel_nats(model, test, images, progress=lambda done, of: progress(f"measuring {name}", done, of))
    count, given = prompts(model, test, SAMPLES)
    progress(f"sampling {name}", 0, 1)
    samples = model.sample(count, **given, seed=0)
    progress(f"sampling {name}", 1, 1)
    text = (place / RECIPE).read_text("utf-8", "replace") if (place / RECIPE).is_file() else ""
    return Subject(name, model, config, read_metrics(place), text, nats, samples, given.get("labels"))
