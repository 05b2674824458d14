"""Names to builders: a built-in is known because its file is there, a plugin because its package says so.

A built-in named ``masked-conv2d`` lives in ``masked_conv2d.py`` of its kind's folder, under the attribute whose
letters are the same (``MaskedConv2d``). A third party's is declared by its distribution as an entry point:

    [project.entry-points."zoo.layers"]
    my-block = "my_package.blocks:MyBlock"

Nothing is imported until it is asked for, so a broken plugin fails alone.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from zoo.errors import RequestError


class RegistryError(RequestError):
    """A name that cannot be turned into a builder; the message says what to type instead."""


@dataclass(frozen=True)
class Registry:
    """The names of one kind of thing, and the builders they stand for.

    Args:
        kind: what one entry is called in messages, such as ``layer``.
        package: the package whose files are the built-ins; its name is the entry-point group too.

    Example:
        >>> from zoo.registry import LIKELIHOODS
        >>> "bernoulli" in LIKELIHOODS.names()
        True
        >>> LIKELIHOODS.get("bernouli")
        Traceback (most recent call last):
        ...
        zoo.registry.RegistryError: no likelihood is named 'bernouli'; did you mean 'bernoulli'?
    """

    kind: str
    package: str

    def names(self) -> list[str]:
        """Every name, built-in or declared by a plugin, in order."""
        return sorted({*self._files(), *(point.name for point in self._plugins())})

    def get(self, name: str) -> Callable[..., Any]:
        """The builder called ``name``; only its own file or plugin is imported.

        Raises:
            RegistryError: the name is unknown, is declared twice, or its plugin does not import.
        """
        file, plugins = self._files().get(name), [p for p in self._plugins() if p.name == name]
        declared = [f"the zoo's own {file.name}"] if file else []
        declared += [f"{point.value} of {_distribution(point)}" for point in plugins]
        if len(declared) > 1:
            raise RegistryError(
                f"the {self.kind} name {name!r} is declared {len(declared)} times: {', '.join(declared)}; "
                "rename or uninstall all but one"
            )
        if file:
            return self._attribute(file.stem)
        if plugins:
            return self._load(plugins[0])
        near = difflib.get_close_matches(name, self.names(), n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(self.names())}"
        raise RegistryError(f"no {self.kind} is named {name!r}; {hint}")

    def build(self, spec: str | Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Build from ``"name"`` or ``{"name": "name", ...more arguments}``: what a recipe writes into a slot.

        Raises:
            RegistryError: as :meth:`get`, or the builder does not take these arguments.
        """
        own = {} if isinstance(spec, str) else {key: value for key, value in spec.items() if key != "name"}
        name = spec if isinstance(spec, str) else spec.get("name")
        if not isinstance(name, str):
            raise RegistryError(f"a {self.kind} needs a name, given {spec!r}; write a name or {{name: ..., ...}}")
        builder = self.get(name)
        try:
            inspect.signature(builder).bind(*args, **kwargs | own)
        except TypeError as error:
            raise RegistryError(f"{self.kind} {name!r}: {error}; it takes {inspect.signature(builder)}") from None
        return builder(*args, **kwargs | own)

    def _files(self) -> dict[str, Path]:
        folder = Path(__file__).parent / self.package.rpartition(".")[2]
        files = (path for path in folder.glob("*.py") if not path.name.startswith("_"))
        return {path.stem.replace("_", "-"): path for path in files}

    def _plugins(self) -> list[EntryPoint]:
        return list(entry_points(group=self.package))

    def _attribute(self, stem: str) -> Callable[..., Any]:
        module = importlib.import_module(f"{self.package}.{stem}")
        for name, value in vars(module).items():
            # Only what the file defines itself: mnist.py may well import torchvision's MNIST.
            if name.replace("_", "").lower() == stem.replace("_", "") and value.__module__ == module.__name__:
                return value
        raise RegistryError(f"{module.__file__} defines nothing called {stem!r}, in whatever case")

    def _load(self, point: EntryPoint) -> Callable[..., Any]:
        try:
            return point.load()
        except Exception as error:
            raise RegistryError(
                f"the {self.kind} {point.name!r} ({point.value} of {_distribution(point)}) does not import: "
                f"{type(error).__name__}: {error}"
            ) from error


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown distribution"


def providers(parts: Iterable[Any]) -> list[dict[str, str]]:
    """The distributions, with versions, whose plugins the objects come from; none for the zoo's own and torch's."""
    packages = {type(part).__module__.partition(".")[0] for part in parts} - {__package__}
    points = [point for kind in (LAYERS, MODELS, LIKELIHOODS, DATA) for point in entry_points(group=kind.package)]
    found = {
        point.dist.name: point.dist.version
        for point in points
        if point.dist and point.module.partition(".")[0] in packages
    }
    return [{"name": name, "version": version} for name, version in sorted(found.items())]


LAYERS = Registry("layer", "zoo.layers")
MODELS = Registry("model", "zoo.models")
LIKELIHOODS = Registry("likelihood", "zoo.likelihoods")
DATA = Registry("data set", "zoo.data")
