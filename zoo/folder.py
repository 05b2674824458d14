"""A model folder is a model: ``config.json``, ``model.safetensors``, ``README.md``, ``recipe.yaml``.

The same after training, inside the package and when shared. Only JSON and safetensors are read, no code and no pickle.
"""

import hashlib
import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveInt, ValidationError
from safetensors import SafetensorError, safe_open

from zoo.errors import FailedError, first_line
from zoo.files import save_tensors, write_text
from zoo.models import PixelModel
from zoo.recipe import check_arguments, dry_build, listed
from zoo.registry import MODELS, providers

FORMAT = 1
WEIGHTS = "model.safetensors"


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
    draws: PositiveInt = 1
    nats_per_image: FiniteFloat
    nats_std_error: FiniteFloat
    bits_per_dim: FiniteFloat


class Config(_Described):
    """What ``config.json`` must hold, and may."""

    format: PositiveInt
    name: str
    architecture: str
    model_args: dict[str, Any]
    weights: Weights
    conditional: bool | None = None
    num_classes: PositiveInt | None = None
    classes: list[str] = []
    vector_size: PositiveInt | None = None
    map_channels: PositiveInt | None = None
    dataset: str | None = None
    data_args: dict[str, Any] = {}
    protocol: str | None = None
    parameters: int | None = None
    results: list[Measured] = []
    plugins: list[dict[str, Any]] = []


class FolderError(FailedError):
    """A model folder that cannot be used; the message lists everything that is wrong with it."""


def load(folder: Path) -> PixelModel:
    """Load the model of a folder, in evaluation mode.

    The weights' sha256, names, shapes, types and finiteness are checked.

    Raises:
        FolderError: the folder is damaged, or needs an architecture that is not installed.
    """
    config = read_config(folder)
    expected = expected_state(config)
    weights = folder / WEIGHTS
    check_digest(weights, config["weights"]["sha256"])
    state = _read_weights(weights, expected)
    with torch.random.fork_rng(devices=[]):
        model = MODELS.build(config["architecture"], **config["model_args"])
    model.load_state_dict(state)
    # The same numbers, laid out so that convolutions on CPUs run two to three times faster.
    return model.eval().to(memory_format=torch.channels_last)


def expected_state(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The names, shapes and types of the weights that a config, anybody's, calls for; without the memory for them.

    Raises:
        FolderError: the architecture is not there, or does not take these arguments.
    """
    name, arguments = config["architecture"], config["model_args"]
    try:
        check_arguments(MODELS, name, arguments)
        return dry_build(name, arguments).state_dict()
    except Exception as error:  # the arguments of a stranger, in the constructor of a plugin
        reason = first_line(error)[:1000]
        raise FolderError(
            f"{config['name']!r} cannot be built: architecture {name!r}: {reason}{_how_to_install(config)}"
        ) from None


def read_config(folder: Path, weights: bool = True) -> dict[str, Any]:
    """The folder's ``config.json``.

    Args:
        weights: whether they must be beside it.

    Raises:
        FolderError: files or keys are missing, or it is no JSON.
    """
    needed = ("config.json", WEIGHTS) if weights else ("config.json",)
    missing = [name for name in needed if not (folder / name).is_file()]
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
    plugins = providers([*model.modules(), model.likelihood])
    config = {"format": FORMAT, **config, **({"plugins": plugins} if plugins else {})}
    config |= {"weights": {"file": WEIGHTS, "sha256": _sha256(folder / WEIGHTS)}}
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    return config


def count_parameters(model: PixelModel) -> int:
    """How many numbers training adjusts, those that a mask keeps at zero included.

    Example:
        >>> count_parameters(MODELS.build("pixelcnn", channels=8, layers=1))
        1065
    """
    return sum(parameter.numel() for parameter in model.parameters())


def _how_to_install(config: dict[str, Any]) -> str:
    """What the plugins that the model needs are called, as far as they are not there; its author says so, not we."""
    names = [plugin.get("name") for plugin in config["plugins"]]
    named = [name for name in names if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name)]
    missing = [name for name in named if not _is_installed(name)]
    if not missing:
        return ""
    return f"; it was made with plugins that are not installed; if you trust them: pip install {' '.join(missing)}"


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def check_digest(path: Path, expected: str) -> None:
    """Refuse a file whose sha256 is not the expected one.

    Raises:
        FolderError: it is not.
    """
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
        more = f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise FolderError(f"{path} does not fit the model: {'; '.join(wrong[:10])}{more}")
    return state
