"""What a name stands for: a trained model inside the package or on the Hub, a model folder, or an architecture."""

import difflib
import fnmatch
from pathlib import Path
from typing import Any

from zoo import folder as folders
from zoo import hub
from zoo.errors import RequestError
from zoo.folder import WEIGHTS
from zoo.models import PixelModel
from zoo.recipe import check_arguments
from zoo.registry import MODELS

NAMED = Path(__file__).parent / "weights"
"""A folder for each trained model that has a name; without weights if its config names a commit on the Hub."""


class UnknownModelError(RequestError):
    """A name that is no model."""


def load(reference: str | Path) -> PixelModel:
    """Load a trained model, in evaluation mode.

    Its sha256, and the weights' names, shapes, types and finiteness are checked; no code of its own is run.

    Args:
        reference: a name of the zoo, ``hf-hub:owner/repo`` with an optional ``@revision``, or the path of a folder.

    Raises:
        UnknownModelError: no such model.
        FolderError: the folder is damaged, or needs an architecture that is not installed.
        HubError: it is on the Hub, and the network, the server or the cache failed.

    Example:
        >>> model = load("cond-pixelcnn-mnist")
        >>> model.sample(2, labels=[3, 8], seed=0).shape
        torch.Size([2, 1, 28, 28])
    """
    return folders.load(find(reference))


def create(name: str, **arguments: Any) -> PixelModel:
    """Build a model with fresh weights: an architecture, or the architecture and arguments of a trained model.

    Raises:
        UnknownModelError: no such model.
        RegistryError: arguments that the builder does not take.

    Example:
        >>> create("pixelcnn", channels=8, layers=1).image_shape
        (1, 28, 28)
    """
    if name in MODELS.names():
        return MODELS.build(name, **arguments)
    if name in trained():
        config = describe(name)
    else:
        # Anybody's: whether its weights fit is known before memory is taken.
        home = find(name)
        folders.load(home)
        config = folders.read_config(home)
    check_arguments(MODELS, config["architecture"], config["model_args"] | arguments)
    return MODELS.build(config["architecture"], **config["model_args"] | arguments)


def list_models(pattern: str = "*") -> list[str]:
    """The names of all models, trained ones and architectures, that match a shell pattern.

    Example:
        >>> list_models("cond-*-mnist")
        ['cond-gated-pixelcnn-mnist', 'cond-pixelcnn-mnist']
    """
    return [name for name in sorted({*MODELS.names(), *trained()}) if fnmatch.fnmatchcase(name, pattern)]


def trained() -> list[str]:
    """The trained models that have a name.

    Example:
        >>> print(*trained(), sep=", ")
        cond-gated-pixelcnn-mnist, cond-pixelcnn-mnist, gated-pixelcnn-mnist, gated-pixelcnn-mnist-8bit, pixelcnn-mnist
    """
    return sorted(path.parent.name for path in NAMED.glob("*/config.json"))


def where(reference: str | Path) -> str:
    """Where its weights are: "bundled", "hub", "local", or "none" for an architecture.

    Example:
        >>> where("pixelcnn-mnist"), where("pixelcnn"), where("hf-hub:ada/digits")
        ('bundled', 'none', 'hub')
    """
    name = str(reference)
    if name in trained():
        return "bundled" if (NAMED / name / WEIGHTS).is_file() else "hub"
    if name in MODELS.names():
        return "none"
    return "hub" if hub.is_reference(name) else "local"


def describe(reference: str | Path) -> dict[str, Any]:
    """A trained model's config; that of a name without asking the Hub."""
    if str(reference) in trained():
        return folders.read_config(NAMED / str(reference), weights=False)
    return folders.read_config(find(reference))


def find(reference: str | Path, *, everything: bool = False) -> Path:
    """The folder of a trained model, fetched from the Hub if need be.

    Args:
        reference: as :func:`load` takes it.
        everything: from the Hub, the card, the recipe and the metrics too, not only what loading needs.

    Raises:
        UnknownModelError: no such model.
    """
    name = str(reference)
    if name in trained():
        return _named(NAMED / name, everything)
    if hub.is_reference(name):
        return hub.pull(name, everything=everything).folder
    if name and Path(reference).is_dir():
        return Path(reference)
    known = trained()
    if name in MODELS.names():
        raise UnknownModelError(
            f"{name!r} is an architecture without weights; zoo.create({name!r}) builds a fresh one, "
            f"trained are {', '.join(known)}"
        )
    near = difflib.get_close_matches(name, [*known, *MODELS.names()], n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"
    hint += f"; a repository of the Hub is written hf-hub:{name}" if name.count("/") == 1 else ""
    raise UnknownModelError(f"no model {name!r}: neither a name of the zoo nor a model folder; {hint}")


def _named(home: Path, everything: bool) -> Path:
    if (home / WEIGHTS).is_file():
        return home
    config = folders.read_config(home, weights=False)
    pinned = config.get("hub")
    if not isinstance(pinned, dict) or not {"repo", "commit"} <= pinned.keys():
        return home  # and loading says what is missing
    reference = f"{hub.PREFIX}{pinned['repo']}@{pinned['commit']}"
    return hub.pull(reference, everything=everything, sha256=config["weights"]["sha256"]).folder
