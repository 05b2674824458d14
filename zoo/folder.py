"""A model folder is a model: ``config.json``, ``model.safetensors``, ``README.md``, ``recipe.yaml``.

The same after training, inside the package and when shared. Only JSON and safetensors are read, no code and no pickle.
"""

import difflib
import fnmatch
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from zoo.errors import FailedError, RequestError
from zoo.files import save_tensors, write_text
from zoo.models import PixelModel
from zoo.recipe import check_arguments, dry_build, listed
from zoo.registry import MODELS

FORMAT = 1
WEIGHTS = "model.safetensors"
BUNDLED = Path(__file__).parent / "weights"


class _Described(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Weights(_Described):
    """Which file holds the weights, and what is in it."""

    sha256: str


class Measured(_Described):
    """A result, as :class:`zoo.evaluation.Result` has it."""

    dataset: str
    split: str
    protocol: str
    images: int
    nats_per_image: float
    nats_std_error: float
    bits_per_dim: float


class Config(_Described):
    """What ``config.json`` must hold, and may."""

    format: int
    name: str
    architecture: str
    model_args: dict[str, Any]
    weights: Weights
    conditional: bool | None = None
    dataset: str | None = None
    protocol: str | None = None
    parameters: int | None = None
    results: list[Measured] = []


class FolderError(FailedError):
    """A model folder that cannot be used; the message lists everything that is wrong with it."""


class UnknownModelError(RequestError):
    """A name that is no model."""


def load(reference: str | Path) -> PixelModel:
    """Load a trained model, in evaluation mode: by the zoo's name, or from the path of a model folder.

    The weights' sha256, names, shapes, types and finiteness are checked.

    Raises:
        UnknownModelError: no such model.
        FolderError: the folder is damaged, or needs an architecture that is not installed.

    Example:
        >>> model = load("cond-pixelcnn-mnist")
        >>> model.sample(2, labels=[3, 8], seed=0).shape
        torch.Size([2, 1, 28, 28])
    """
    folder = find(reference)
    config = read_config(folder)
    name, arguments = config["architecture"], config["model_args"]
    weights = folder / WEIGHTS
    _check_digest(weights, config["weights"]["sha256"])
    try:
        check_arguments(MODELS, name, arguments)
        # Shapes first, without memory: the folder may be anybody's.
        expected = dry_build(name, arguments).state_dict()
    except Exception as error:  # the arguments of a stranger, in the constructor of a plugin
        raise FolderError(f"{folder / 'config.json'}: architecture {name!r}: {error}") from None
    state = _read_weights(weights, expected)
    with torch.random.fork_rng(devices=[]):
        model = MODELS.build(name, **arguments)
    model.load_state_dict(state)
    # The same numbers, laid out so that convolutions on CPUs run two to three times faster.
    return model.eval().to(memory_format=torch.channels_last)


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
    config = read_config(find(name))
    return MODELS.build(config["architecture"], **config["model_args"] | arguments)


def list_models(pattern: str = "*") -> list[str]:
    """The names of all models, trained ones and architectures, that match a shell pattern.

    Example:
        >>> list_models("cond-*-mnist")
        ['cond-pixelcnn-mnist']
    """
    return [name for name in sorted({*MODELS.names(), *bundled()}) if fnmatch.fnmatchcase(name, pattern)]


def bundled() -> list[str]:
    """The trained models inside the package."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))


def find(reference: str | Path) -> Path:
    """The folder of a trained model: by the zoo's name, or by path.

    Raises:
        UnknownModelError: no such model.
    """
    if str(reference) in bundled():
        return BUNDLED / str(reference)
    if str(reference) and Path(reference).is_dir():
        return Path(reference)
    known = bundled()
    if str(reference) in MODELS.names():
        raise UnknownModelError(
            f"{reference!r} is an architecture without weights; zoo.create({str(reference)!r}) builds a fresh one, "
            f"trained are {', '.join(known)}"
        )
    near = difflib.get_close_matches(str(reference), [*known, *MODELS.names()], n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"
    raise UnknownModelError(f"no model {str(reference)!r}: neither a name of the zoo nor a model folder; {hint}")


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's ``config.json``.

    Raises:
        FolderError: files or keys are missing, or it is no JSON.
    """
    missing = [name for name in ("config.json", WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise FolderError(f"{folder} is no model folder: {' and '.join(missing)} missing; zoo train writes one")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{folder / 'config.json'} is not JSON: {error}") from None
    try:
        config = Config.model_validate_json(json.dumps(config), strict=True).model_dump()
    except ValidationError as error:
        raise FolderError(f"{folder / 'config.json'} is not a zoo config: {listed(error)}") from None
    if config["format"] > FORMAT:
        raise FolderError(f"{folder} has format {config['format']}, this zoo reads {FORMAT}: pip install -U pixelzoo")
    return config


def save(model: PixelModel, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Write weights and ``config.json``, completed with format and sha256; the config comes last and makes it whole.

    Args:
        config: at least ``name``, ``architecture`` and ``model_args``.
    """
    save_tensors(model.state_dict(), folder / WEIGHTS, {"format": "pt"})
    config = {"format": FORMAT, **config, "weights": {"file": WEIGHTS, "sha256": _sha256(folder / WEIGHTS)}}
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    return config


def count_parameters(model: PixelModel) -> int:
    """How many numbers training adjusts, those that a mask keeps at zero included.

    Example:
        >>> count_parameters(create("pixelcnn", channels=8, layers=1))
        1065
    """
    return sum(parameter.numel() for parameter in model.parameters())


def _check_digest(path: Path, expected: str) -> None:
    actual = _sha256(path)
    if actual != expected:
        raise FolderError(
            f"{path} is not the file that config.json describes: sha256 {actual[:12]}..., expected "
            f"{expected[:12]}... ({path.stat().st_size} bytes); it is damaged, truncated or another file: copy, "
            "download or train it again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_weights(path: Path, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            wrong = [f"{name} is missing" for name in sorted(expected.keys() - names)]
            wrong += [f"{name} is not in the model" for name in sorted(names - expected.keys())]
            for name in sorted(names & expected.keys()):
                shape = tuple(file.get_slice(name).get_shape())
                if shape != tuple(expected[name].shape):
                    wrong.append(f"{name} has shape {shape}, the model {tuple(expected[name].shape)}")
            state = {} if wrong else {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise FolderError(f"{path} is no safetensors file ({error}); copy, download or train it again") from None
    for name, tensor in sorted(state.items()):
        if tensor.dtype != expected[name].dtype:
            wrong.append(f"{name} has type {tensor.dtype}, the model {expected[name].dtype}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            wrong.append(f"{name} holds values that are not finite")
    if wrong:
        raise FolderError(f"{path} does not fit the model: {'; '.join(wrong)}")
    return state
