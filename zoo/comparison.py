"""The comparison of two models in words, which the numbers fill."""

import math

from zoo.evaluation import told_of_each
from zoo.findings import Findings, Subject, by_class, class_names, mean, takes


def compared(found: Findings) -> list[str]:
    """The comparison that the assignment asks for, filled by the numbers."""
    one, other = found.subjects
    return [*_which_is_better(one, other), *_what_else_is_told(one, other), *_what_the_class_tells(found)]


def _which_is_better(one: Subject, other: Subject) -> list[str]:
    difference, error = mean(other.per_image - one.per_image)
    better, worse = (one, other) if difference > 0 else (other, one)
    size, least, most = abs(difference), mean(better.per_image)[0], mean(worse.per_image)[0]
    text = (
        f"An image costs {size:.2f} ± {error:.2f} nats less under {better.name} than under {worse.name}, compared one "
        f"by one: {least:.2f} instead of {most:.2f}, {100 * size / most:.1f} % less. "
    )
    if _beyond(size, error):
        share = (better.per_image < worse.per_image).double().mean().item()
        return [text + f"{better.name} gives {100 * share:.0f} % of the images the higher probability."]
    return [text + "The difference is within two standard errors: these images do not tell which one is better."]


def _what_else_is_told(one: Subject, other: Subject) -> list[str]:
    if one.model.takes == other.model.takes or not (told_of_each(one.model) or told_of_each(other.model)):
        return []
    return [
        f"{one.name} is conditional on {takes(one.model)}, {other.name} on {takes(other.model)}: what is told of each "
        "image is not the same, and the difference is not one of the models alone."
    ]


def _what_the_class_tells(found: Findings) -> list[str]:
    told = [subject for subject in found.subjects if subject.model.num_classes is not None]
    untold = [subject for subject in found.subjects if subject.model.num_classes is None]
    if not told or not untold or any(told_of_each(one.model) for one in found.subjects):
        return []
    if (found.test.num_classes or 1) < 2:
        return []
    (conditional,), (without,) = told, untold
    gains = without.per_image - conditional.per_image
    gain, error = mean(gains)
    most = math.log(found.test.num_classes)
    text = (
        f"{conditional.name} is told the class, {without.name} is not. A class, one of {found.test.num_classes}, can "
        f"tell log {found.test.num_classes} = {most:.2f} nats at most: between the true distributions the gain would "
        f"be the information that image and class share. The gain here is {gain:.2f} ± {error:.2f} nats"
    )
    if _beyond(gain - most, error):
        text += (
            f", {gain - most:.2f} more than that: at least so much of it is not what the label tells, but a better "
            "model of the images."
        )
    elif gain > 0:
        text += f", {100 * gain / most:.0f} % of that."
    else:
        text += ": what the label tells is outweighed by how well each of them was built and trained."
    each = by_class(found, gains)
    names = class_names(found)
    best, least = int(each.nan_to_num(-math.inf).argmax()), int(each.nan_to_num(math.inf).argmin())
    ends = [gains[found.test.labels == one] for one in (best, least)]
    (high, above), (low, below) = map(mean, ends)
    if best != least and _beyond(high - low, math.hypot(above, below)):
        text += f" Class {names[best]} gains most, {high:.2f} nats, and class {names[least]} least, {low:.2f}."
    return [text]


def _beyond(difference: float, error: float) -> bool:
    """Whether it is more than two standard errors, of which a single image has none."""
    return error > 0 and difference > 2 * error
