"""The folder of a run: one training at a time, resumed only with its own recipe."""

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from zoo.errors import RequestError, first_line
from zoo.files import sweep, write_text
from zoo.recipe import Recipe, dump_recipe, load_recipe

METRICS = "metrics.jsonl"
RECIPE = "recipe.yaml"


class RunError(RequestError):
    """A run folder that this request does not fit."""


@contextmanager
def opened(recipe: Recipe, output: Path, resume: bool) -> Iterator[None]:
    """Hold the folder for one training of ``recipe``, and nobody else.

    Raises:
        RunError: it is in use, holds other things, a run that nobody said to resume, or another recipe's run.
        OSError: it cannot be made or written.
    """
    _check(recipe, output, resume)
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"{output} is in use by another training; --output names another folder") from None
    try:
        sweep(output)
        if not (output / RECIPE).is_file():
            write_text(output / RECIPE, dump_recipe(recipe))
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of ``metrics.jsonl``, one for each validated epoch; none if there is no such file.

    Raises:
        RunError: it holds something else.
    """
    if not (folder / METRICS).is_file():
        return []
    try:
        lines = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
        metrics = [{key: float(value) for key, value in line.items()} for line in lines]
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{folder / METRICS} is no list of metrics: {first_line(error)}; delete it") from None
    for number, line in enumerate(metrics, 1):
        if missing := {"epoch", "seconds"} - line.keys():
            raise RunError(f"{folder / METRICS}:{number}: no {' and no '.join(sorted(missing))}; delete the file")
    return metrics


def trim_metrics(output: Path, count: int) -> None:
    """Keep the first so many lines; those of epochs that the checkpoint does not know will be written again."""
    if (output / METRICS).is_file():
        lines = (output / METRICS).read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(output / METRICS, "".join(lines[:count]))


def _check(recipe: Recipe, output: Path, resume: bool) -> None:
    if not (output / RECIPE).is_file():
        # Hidden files are ours, of a run that was killed at once.
        if output.is_dir() and any(not path.name.startswith(".") for path in output.iterdir()):
            raise RunError(f"{output} is not empty and holds no run; --output names another folder")
        return
    if not resume:
        raise RunError(f"{output} already holds a run; --resume continues it, --output names another folder")
    # Read, not compared as text: since then, keys may have come that have a default.
    before, now = (dump_recipe(one) for one in (load_recipe(output / RECIPE), recipe))
    if before != now:
        changes = difflib.unified_diff(before.splitlines(), now.splitlines(), "the run", "this recipe", "", "", 0, "")
        raise RunError(
            f"{output} was trained with another recipe; --output names another folder\n" + "\n".join(changes)
        )
