"""The report on a model: what was found out about it, in words, tables and pictures."""

import math
import platform
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import zoo
from zoo import pictures, plots
from zoo.checking import seen_from
from zoo.classifier import predicted
from zoo.comparison import compared
from zoo.evaluation import told_of_each
from zoo.findings import Findings, Subject, by_class, class_names, figures, mean, takes
from zoo.folder import count_parameters
from zoo.models import PixelModel
from zoo.page import Block, Code, Heading, Picture, Row, Table, Words

SHOWN = 100
PER_CLASS = 10
"""How many samples of each class are shown."""
BAYES = 500
"""Of how many test images the classes are inferred from their likelihoods."""


def blocks(found: Findings) -> list[Block]:
    """The report, section by section."""
    parts: list[Block] = [*_summary(found), *_samples(found)]
    parts += _classes(found)
    parts += _pixels(found)
    parts += _training(found)
    return parts


def title(found: Findings) -> str:
    """What the report is called."""
    return " against ".join(subject.name for subject in found.subjects)


def _summary(found: Findings) -> list[Block]:
    rows = [
        [
            subject.name,
            f"{figure['nats_per_image']:.2f} ± {figure['nats_std_error']:.2f}",
            f"{figure['bits_per_dim']:.4f}",
            f"{count_parameters(subject.model):,}",
            takes(subject.model),
        ]
        for subject, figure in zip(found.subjects, figures(found), strict=True)
    ]
    drawn = ", bits drawn once, from seed 0" if found.protocol == "dynamic" else ""
    parts: list[Block] = [
        Words(
            f"Measured on {len(found.test):,} test images of {found.dataset}, protocol {found.protocol}{drawn}; ± is "
            "the standard error over the images. Figures of other protocols cannot be compared with these."
        ),
        Table(["model", "nats per image", "bits per dimension", "parameters", "conditional on"], rows),
        *map(Words, _elsewhere(found)),
    ]
    if len(found.subjects) == 2:
        parts.append(Heading("In words"))
        parts += [Words(text) for text in compared(found)]
    return parts


def _elsewhere(found: Findings) -> list[str]:
    """Which model was trained on, or under, something else than it is measured with here."""
    return [
        f"{subject.name} was trained {what} {subject.config[key] or 'what it does not name'}, and is measured "
        f"{what} {here} here."
        for subject in found.subjects
        for what, key, here in (("under protocol", "protocol", found.protocol), ("on", "dataset", found.dataset))
        if subject.config[key] != here
    ]


def _samples(found: Findings) -> list[Block]:
    sheets = []
    for subject in found.subjects:
        if subject.asked is None:
            kept, labels, columns = torch.arange(min(SHOWN, len(subject.samples))), None, 10
            caption = f"The first {len(kept)} samples of {subject.name}."
        else:
            # The first ones of each class that was asked for.
            asked = [(subject.asked == one).nonzero()[:, 0] for one in subject.asked.unique()[:SHOWN]]
            columns = min(PER_CLASS, *map(len, asked)) if len(asked) > 1 else PER_CLASS
            kept = torch.cat([one[:columns] for one in asked])
            labels = pictures.named(subject.asked[kept], found.test.classes)
            caption = f"The first samples of {subject.name} for each class that was asked for, a row each."
        if told_of_each(subject.model):
            caption += " What else it is told is that of test images."
        picture = pictures.grid(subject.samples[kept], labels=labels, columns=columns)
        sheets.append(Picture(f"samples-{subject.name}.png", _png(picture), caption))
    sheets.append(Picture("test.png", _png(pictures.grid(found.images[:SHOWN])), "Test images, to compare with."))
    first = found.subjects[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawing.gif"
        chosen = torch.linspace(0, len(first.samples) - 1, min(20, len(first.samples))).long()
        pictures.save_animation(first.samples[chosen], path, frames=40)
        animation = path.read_bytes()
    sheets.append(Picture("drawing.gif", animation, f"{first.name}, drawing pixel after pixel."))
    return [Heading("Samples"), Row(sheets)]


def _classes(found: Findings) -> list[Block]:
    """What is known by class: nats, and what a classifier sees in the samples."""
    if found.test.labels is None or found.test.num_classes is None or found.judge is None:
        return []
    names = class_names(found)
    costs = {subject.name: by_class(found, subject.per_image).tolist() for subject in found.subjects}
    parts: list[Block] = [
        Heading("Class by class"),
        Picture("classes.png", plots.bars(names, costs, "nats per image"), "Nats per test image of each class."),
    ]
    right, sure = predicted(found.judge, found.images)
    correct = (right == found.test.labels).double().mean().item()
    rows, words = (
        [],
        [f"It is right for {100 * correct:.1f} % of the test images, and on average {_percent(sure)} sure."],
    )
    for subject in found.subjects:
        seen, sure = predicted(found.judge, subject.samples)
        if subject.asked is None:
            shares = seen.bincount(minlength=found.test.num_classes).double() / len(seen)
            rows.append([subject.name, "share of samples", *(f"{100 * one:.0f} %" for one in shares)])
            words.append(f"Nobody asked {subject.name} for a class; it is {_percent(sure)} sure of its samples.")
        else:
            agreed = [(seen[subject.asked == one] == one).double().mean() for one in range(len(names))]
            rows.append([subject.name, "as asked", *("–" if one.isnan() else f"{100 * one:.0f} %" for one in agreed)])
            known = subject.asked < len(names)
            same = (seen == subject.asked)[known].double().mean().item()
            words.append(
                f"In {100 * same:.1f} % of {int(known.sum()):,} samples of {subject.name} it sees the class that was "
                f"asked for, and is {_percent(sure)} sure of them."
            )
    parts.append(
        Words(
            "A small classifier, trained for this page on the training images, looks at the samples. " + " ".join(words)
        )
    )
    parts.append(Table(["model", "what is counted", *names], rows))
    for subject in found.subjects:
        if subject.model.num_classes and not told_of_each(subject.model):
            parts.append(Words(_bayes(found, subject)))
    return parts


def _bayes(found: Findings, subject: Subject) -> str:
    """What the model says without the class, and which class it infers: p(x) = mean over y of p(x | y)."""
    x = found.images[:BAYES]
    classes = range(subject.model.num_classes)
    with torch.no_grad():
        each = torch.stack([_log_prob(subject.model, x, label) for label in classes]).double()
    marginal = -(each.logsumexp(0) - math.log(len(classes)))
    right = (each.argmax(0) == found.test.labels[: len(x)]).double().mean().item()
    alone = ""
    if subject.model.condition_dropout:
        with torch.no_grad():
            nats = mean(-_log_prob(subject.model, x, None).double())[0]
        alone = f" Asked without a class, which its training has taught it, it has {nats:.2f}."
    told = mean(subject.per_image[: len(x)])[0]
    others = "".join(
        f" {one.name}: {mean(one.per_image[: len(x)])[0]:.2f}." for one in found.subjects if not one.model.conditional
    )
    return (
        f"Without being told the class, {subject.name} is the mean of its {len(classes)} classes' distributions, all "
        f"taken as equally frequent: {mean(marginal)[0]:.2f} nats on {len(x)} of the test images, where it has "
        f"{told:.2f} when told.{alone}{others} "
        f"The class for which it finds an image likeliest is right in {100 * right:.1f} % of them."
    )


def _log_prob(model: PixelModel, x: Tensor, label: int | None) -> Tensor:
    return torch.cat([model.log_prob(part, labels=label) for part in x.split(100)])


def _pixels(found: Findings) -> list[Block]:
    """Where in the image the nats are, in which images, and what the models see."""
    maps = {subject.name: subject.nats.double().mean(0) for subject in found.subjects}
    parts: list[Block] = [
        Heading("Where the nats are"),
        Picture("nats.png", plots.heat_maps(maps), "Mean nats of each pixel, over the test images."),
    ]
    for subject in found.subjects:
        ranked = subject.per_image.argsort()
        count = min(20, len(ranked) // 2)
        ends = {"most": ranked[:count], "least": ranked.flip(0)[:count]} if count else {}
        sheets = []
        for end, chosen in ends.items():
            nats = subject.per_image[chosen]
            caption = (
                f"The {count} {end} likely test images under {subject.name}: {nats.min():.1f} to {nats.max():.1f} nats."
            )
            picture = pictures.grid(found.images[chosen])
            sheets.append(Picture(f"{end}-likely-{subject.name}.png", _png(picture), caption))
        parts.append(Row(sheets))
    height, width = found.images.shape[2:]
    place = (height // 2, width // 2)
    fields = {subject.name: seen_from(subject.model, place) for subject in found.subjects}
    caption = "Which pixels reach the output in the middle (red): what is not dark above it is out of sight."
    parts += [Heading("What it sees"), Picture("receptive-field.png", plots.seen(fields, place), caption)]
    return parts


def _training(found: Findings) -> list[Block]:
    parts: list[Block] = [Heading("Training")]
    lines = {subject.name: subject.lines for subject in found.subjects if subject.lines}
    if lines:
        caption = (
            "Nats per validation image, under the protocol it was trained with; dotted, those of the training images "
            "during the epoch before, before weights are averaged."
        )
        parts.append(Picture("training.png", plots.curves(lines), caption))
    for subject in found.subjects:
        training = subject.config.get("training")
        facts = ", ".join(f"{key} {value}" for key, value in training.items()) if isinstance(training, dict) else ""
        parts.append(Words(f"{subject.name}: {facts or 'how it was trained is not recorded'}."))
        if subject.recipe:
            parts.append(Code(subject.recipe, "yaml"))
    parts.append(
        Words(f"This page: pixelzoo {zoo.__version__}, torch {torch.__version__}, Python {platform.python_version()}.")
    )
    return parts


def _percent(values: Tensor) -> str:
    return f"{100 * values.double().mean().item():.1f} %"


def _png(picture: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
