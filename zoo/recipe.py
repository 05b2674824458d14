"""Recipes: typed, strict YAML; every mistake is reported at once, with its line, before any data is read."""

import difflib
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, create_model
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from zoo.errors import RequestError
from zoo.registry import DATA, LAYERS, LIKELIHOODS, MODELS, Registry, RegistryError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=96)]
Location = tuple[str, ...]
PLAIN_TAGS = ("map", "seq", "str", "int", "float", "bool", "null")


class RecipeError(RequestError):
    """What is wrong with a recipe, all of it, a line each."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelSection(BaseModel):
    """The architecture and, beside ``name``, its builder's arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The builder's arguments."""
        return dict(self.model_extra or {})


class DataSection(BaseModel):
    """The data set, the protocol that turns its bytes into values and, beside these, its builder's arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    name: str
    protocol: Literal["threshold", "dynamic", "none"] = "threshold"

    @property
    def arguments(self) -> dict[str, Any]:
        """The builder's arguments."""
        return dict(self.model_extra or {})

    def read(self, split: str, data_dir: Path | None = None) -> Any:
        """One split of the data set."""
        return DATA.build({"name": self.name, **self.arguments}, split, data_dir)


class OptimizerSection(_Section):
    """Adam, with linear warm-up to the learning rate and cosine decay to zero.

    ``weight_decay`` times the weights is part of the gradient before it is clipped and before Adam's moments are taken,
    so that it is the gradient of a penalty on their squares. Clipping mini-batches weighs them unequally; where the
    minimum of the penalized likelihood is meant literally, ``clip`` is null.
    """

    learning_rate: Annotated[float, Gt(0)] = 3e-3
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.99)
    weight_decay: Annotated[float, Ge(0)] = 0.0
    warmup_steps: Annotated[int, Ge(0)] = 100
    clip: Annotated[float, Gt(0)] | None = 100.0


class GaussianPrior(_Section):
    """Weights are independent of each other and N(0, std^2)."""

    std: Annotated[float, Ge(1e-6), Le(1e6)]


class PriorSection(_Section):
    """What is believed of the weights before any image is seen: training finds the most probable ones after all are."""

    gaussian: GaussianPrior

    def weight_decay(self, images: int) -> float:
        """The decay that makes training on so many images, in nats per image, the MAP estimate: 1 / (N std^2).

        Example:
            >>> PriorSection(gaussian=GaussianPrior(std=0.5)).weight_decay(50_000)
            8e-05
        """
        return 1 / (images * self.gaussian.std**2)


class TrainingSection(_Section):
    """How long, in what portions, in what precision; ``ema`` is the decay of the averaged weights, 0 for none.

    After every ``validate_every`` epochs, and after the last, there is a line of metrics and a preview.
    """

    epochs: Annotated[int, Gt(0)]
    batch_size: Annotated[int, Gt(0)] = 64
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    ema: Annotated[float, Ge(0), Lt(1)] = 0.999
    validate_every: Annotated[int, Gt(0)] = 1
    checkpoint_seconds: Annotated[float, Gt(0)] = 60.0

    def validates(self, epoch: int) -> bool:
        """Whether an epoch, counted from 1, ends with a validation."""
        return epoch % self.validate_every == 0 or epoch == self.epochs


class Recipe(_Section):
    """Everything a training needs; :func:`load_recipe` makes one from a file."""

    name: Name
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    model: ModelSection
    data: DataSection
    optimizer: OptimizerSection = OptimizerSection()
    prior: PriorSection | None = None
    training: TrainingSection

    def weight_decay(self, images: int) -> float:
        """The factor of the weights in the gradient of nats per image, where there are so many to train on."""
        return self.optimizer.weight_decay if self.prior is None else self.prior.weight_decay(images)


def recipe_names() -> list[str]:
    """The packaged recipes."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def find_recipe(reference: str) -> Path:
    """The file of a recipe: a path, or the name of a packaged one.

    Raises:
        RecipeError: there is neither.

    Example:
        >>> find_recipe("cond").name
        'cond.yaml'
        >>> find_recipe("kond")
        Traceback (most recent call last):
        ...
        zoo.recipe.RecipeError: no recipe 'kond': neither a file nor packaged; did you mean 'cond'?
    """
    if Path(reference).is_file():
        return Path(reference)
    names = recipe_names()
    if reference in names:
        return _folder() / f"{reference}.yaml"
    near = difflib.get_close_matches(Path(reference).stem, names, n=2)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"packaged: {', '.join(names)}"
    raise RecipeError(f"no recipe {reference!r}: neither a file nor packaged; {hint}")


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read, override (``training.epochs=2``) and check a recipe.

    Raises:
        RecipeError: with every mistake, as ``file:line: section.key: what is wrong``.
    """
    try:
        document = _Document.read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    recipe = None
    if document.data is not None:
        for override in overrides:
            document.override(override)
        recipe = _validate(document, Recipe, document.data, ())
        _check_names(document)
    if document.problems:
        raise RecipeError("\n".join(f"{path}{problem}" for problem in document.sorted_problems()))
    assert isinstance(recipe, Recipe)  # no problems, so it was made
    return recipe


def parse_value(text: str) -> Any:
    """What a ``key=value`` on the command line means: the same as in YAML.

    Raises:
        RecipeError: not YAML.

    Example:
        >>> parse_value("[1, 28, 28]"), parse_value("3e-3"), parse_value("A")
        ([1, 28, 28], 0.003, 'A')
    """
    if not text:
        return None
    document = _Document.read(text)
    if document.problems:
        raise RecipeError(f"{text!r}: {document.problems[0][2]}")
    return document.data


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, defaults written out."""
    yaml, stream = YAML(), StringIO()
    yaml.default_flow_style = False
    sections = recipe.model_dump(mode="json")
    yaml.dump({name: section for name, section in sections.items() if section is not None}, stream)
    return stream.getvalue()


def check_arguments(registry: Registry, name: str, arguments: Mapping[str, Any]) -> None:
    """Hold arguments from a file against the types in a builder's signature.

    Raises:
        RegistryError: the name, or arguments that are unknown, missing or mistyped, all of them.
    """
    try:
        # JSON mode: strict about types, yet a list may stand for a tuple.
        _signature_model(registry.get(name)).model_validate_json(json.dumps(arguments, default=str), strict=True)
    except ValidationError as error:
        raise RegistryError(f"arguments of the {registry.kind} {name!r}: {listed(error)}") from None
    for slot, layer, own in _slots(arguments):
        try:
            _slot_model(layer).model_validate_json(json.dumps(own, default=str), strict=True)
        except ValidationError as error:
            raise RegistryError(
                f"arguments of the layer {layer!r} in {slot!r} of the {registry.kind} {name!r}: {listed(error)}"
            ) from None


def parse_data(spec: Any) -> DataSection:
    """A data set as a recipe has it, from a name or a mapping of ``name`` and its arguments.

    Raises:
        RecipeError: the name, or arguments that are unknown, missing or mistyped, all of them.

    Example:
        >>> parse_data({"name": "coarse", "of": "mnist", "factor": 7}).arguments
        {'of': 'mnist', 'factor': 7}
        >>> parse_data("mnits")
        Traceback (most recent call last):
        ...
        zoo.recipe.RecipeError: data.name: no data set is named 'mnits'; did you mean 'mnist' or 'kmnist' or 'moments'?
    """
    data = spec if isinstance(spec, dict) else {"name": spec}
    document = _Document(data={"data": data})
    section = _validate(document, DataSection, data, ("data",))
    _check_data(document, data, ("data",))
    if section is None or document.problems:
        raise RecipeError("; ".join(f"{'.'.join(where)}: {text}" for _, where, text in document.problems))
    return section


def listed(error: ValidationError) -> str:
    """All mistakes that pydantic found, in one line."""
    return "; ".join(f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}" for mistake in error.errors())


def dry_build(name: str, arguments: Mapping[str, Any]) -> Any:
    """Build a model to look at its shapes, without memory where its constructor allows it."""
    import torch

    try:
        with torch.device("meta"):
            return MODELS.build(name, **arguments)
    except (NotImplementedError, RuntimeError) as error:
        # More than any memory holds, which is not to be tried for real.
        if "overflow" in str(error):
            raise
        # A constructor that computes with its tensors needs real ones.
        with torch.random.fork_rng(devices=[]):
            return MODELS.build(name, **arguments)


def _folder() -> Path:
    packaged = Path(__file__).parent / "recipes"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "recipes"


@dataclass
class _Document:
    """A YAML file as plain data, with the line of every key and the problems found so far."""

    data: Any = None
    lines: dict[Location, str] = field(default_factory=dict)
    problems: list[tuple[str, Location, str]] = field(default_factory=list)

    @classmethod
    def read(cls, text: str) -> "_Document":
        document = cls()
        yaml = YAML(typ="safe", pure=True)
        try:
            node = yaml.compose(text)
            document.data = document._plain(yaml, node, (), set()) if node is not None else {}
        except MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            document.problems.append((f":{line}", (), f"not YAML: {error.problem}"))
        except RecursionError:
            document.problems.append((":1", (), "nested too deeply"))
        except (YAMLError, ValueError) as error:
            document.problems.append((":1", (), f"not YAML: {error}"))
        return document

    def override(self, text: str) -> None:
        key, equals, value = text.partition("=")
        *parents, last = path = tuple(key.split("."))
        if not equals or not all(path):
            self.problems.append((f" ({text})", (), "an override is written section.key=value"))
            return
        parsed = _Document.read(value)
        at = self.data
        for parent in parents:
            if isinstance(at, dict) and at.get(parent) is None:
                at[parent] = {}
            at = at[parent] if isinstance(at, dict) else None
        if parsed.problems or not isinstance(at, dict):
            self.problems.append((f" ({text})", path, parsed.problems[0][2] if parsed.problems else "no such section"))
            return
        at[last] = None if value == "" else parsed.data
        self.lines = {known: line for known, line in self.lines.items() if known[: len(path)] != path}
        self.lines[path] = f" ({text})"

    def problem(self, location: Location, text: str) -> None:
        known = location
        while known and known not in self.lines:
            known = known[:-1]
        self.problems.append((self.lines.get(known, ":1"), location, text))

    def sorted_problems(self) -> list[str]:
        def order(problem: tuple[str, Location, str]) -> tuple[int, str]:
            number = problem[0].removeprefix(":")
            return (int(number) if number.isdigit() else 10**9, problem[0])

        return [
            f"{line}: {'.'.join(location)}: {text}" if location else f"{line}: {text}"
            for line, location, text in sorted(self.problems, key=order)
        ]

    def _plain(self, yaml: YAML, node: Node, location: Location, above: set[int]) -> Any:
        self.lines.setdefault(location, f":{node.start_mark.line + 1}")
        if str(node.tag).removeprefix("tag:yaml.org,2002:") not in PLAIN_TAGS:
            self.problem(location, f"the YAML tag {node.tag} is not allowed; write a plain value")
            return None
        if node.anchor or id(node) in above:
            # An alias can make a small file huge; no recipe needs one.
            self.problem(location, "anchors and aliases are not allowed; write the value out")
            return None
        if isinstance(node, SequenceNode):
            return [
                self._plain(yaml, item, (*location, str(index)), above | {id(node)})
                for index, item in enumerate(node.value)
            ]
        if isinstance(node, MappingNode):
            mapping: dict[str, Any] = {}
            for key_node, value_node in node.value:
                line = f":{key_node.start_mark.line + 1}"
                if not isinstance(key_node, ScalarNode):
                    self.problems.append((line, location, "a key must be a word"))
                    continue
                key = str(key_node.value)
                if key in mapping:
                    first = self.lines[(*location, key)].removeprefix(":")
                    self.problems.append((line, (*location, key), f"given twice, first in line {first}"))
                    continue
                self.lines[(*location, key)] = line
                mapping[key] = self._plain(yaml, value_node, (*location, key), above | {id(node)})
            return mapping
        assert isinstance(node, ScalarNode)
        return yaml.constructor.construct_object(node)


def _validate(document: _Document, kind: type[BaseModel], data: Any, at: Location) -> BaseModel | None:
    try:
        return kind.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        messages: dict[Location, list[str]] = {}
        for mistake in error.errors():
            messages.setdefault(_location(mistake, data), []).append(_message(mistake, kind))
        for location, texts in messages.items():
            # The branches of a union fail one by one, at the same place.
            document.problem((*at, *location), " or ".join(dict.fromkeys(texts)))
        return None


def _location(mistake: Any, data: Any) -> Location:
    """The part of pydantic's location that is in the file: it also names the branches of unions."""
    path: list[str] = []
    for part in mistake["loc"]:
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if inside:
            data = data[part]
        elif not (isinstance(data, dict) and mistake["type"] == "missing"):
            break
        path.append(str(part))
    return tuple(path)


def _message(mistake: Any, kind: type[BaseModel]) -> str:
    given = mistake["input"]
    if mistake["type"] == "missing":
        return f"given {given!r}; too short" if isinstance(mistake["loc"][-1], int) else "missing"
    if mistake["type"] == "extra_forbidden":
        known = kind.model_fields
        for part in mistake["loc"][:-1]:
            kind = known[str(part)].annotation if str(part) in known else None
            # A section that may be left out is a union of itself and None.
            sections = [one for one in (kind, *typing.get_args(kind)) if hasattr(one, "model_fields")]
            known = sections[0].model_fields if sections else {}
        near = difflib.get_close_matches(str(mistake["loc"][-1]), list(known), n=1)
        return f"unknown key; did you mean {near[0]!r}?" if near else f"unknown key; known: {', '.join(known)}"
    if mistake["type"] == "string_pattern_mismatch":
        return f"given {given!r}; letters, digits, '.', '_' and '-' only, a letter or digit first"
    text = mistake["msg"].replace("Input should be", "must be").replace("Input", "it")
    return f"given {given!r}; {text[0].lower()}{text[1:]}"


def _signature_model(builder: Callable[..., Any]) -> type[BaseModel]:
    function = builder.__init__ if inspect.isclass(builder) else builder
    try:
        types = typing.get_type_hints(function, include_extras=True)
    except NameError:
        types = {}  # names that are imported for type checkers only
    fields: dict[str, Any] = {}
    extra: Literal["allow", "forbid"] = "forbid"
    for name, parameter in inspect.signature(builder).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (types.get(name, Any), default)
    return create_model(
        "Arguments", __config__=ConfigDict(extra=extra, strict=True, arbitrary_types_allowed=True), **fields
    )


def _check_names(document: _Document) -> None:
    """What types alone cannot tell: names, the builder's arguments, and parts that do not fit each other."""
    sections = document.data if isinstance(document.data, dict) else {}
    section = sections.get("model")
    model = dict(section) if isinstance(section, dict) else {}
    name = model.pop("name", None)
    if isinstance(name, str):
        before = len(document.problems)
        try:
            _validate(document, _signature_model(MODELS.get(name)), model, ("model",))
            _check_slots(document, model)
            if len(document.problems) == before:
                _build_dry(document, name, model, sections.get("data"))
        except RegistryError as error:
            document.problem(("model", "name"), str(error))
    _check_data(document, sections.get("data"), ("data",))
    optimizer = sections.get("optimizer")
    if sections.get("prior") is not None and isinstance(optimizer, dict) and optimizer.get("weight_decay"):
        document.problem(
            ("optimizer", "weight_decay"),
            "the prior is a weight decay already; leave one of the two out",
        )


def _check_slots(document: _Document, model: dict[str, Any]) -> None:
    for slot, name, own in _slots(model):
        _validate(document, _slot_model(name), own, ("model", slot))


def _slots(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The layers that mappings put into a model's slots: slot, name, arguments."""
    for slot, given in arguments.items():
        if isinstance(given, dict) and given.get("name") in LAYERS.names():
            yield slot, given["name"], {key: value for key, value in given.items() if key != "name"}


def _slot_model(name: str) -> type[BaseModel]:
    """A layer's arguments, of which those that the model itself passes may be missing."""
    known = _signature_model(LAYERS.get(name))
    fields = {name: (part.annotation, part) for name, part in known.model_fields.items()}
    for part in known.model_fields.values():
        part.default = None if part.is_required() else part.default
    return create_model("Arguments", __config__=known.model_config, **fields)


def _check_data(document: _Document, data: Any, at: Location) -> None:
    """Hold a data set's arguments against its builder, and those of the one ``of`` which it is."""
    if isinstance(data, str):
        data = {"name": data}
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        return  # told already, by type
    try:
        _validate(document, _data_model(data["name"]), data, at)
    except RegistryError as error:
        document.problem((*at, "name") if at == ("data",) else at, str(error))
        return
    if "of" in data:
        _check_data(document, data["of"], (*at, "of"))


def _data_model(name: str) -> type[BaseModel]:
    """A data section as its builder wants it; the split and the folder of all data are not the recipe's to say."""
    known = _signature_model(DATA.get(name))
    fields = {name: (part.annotation, part) for name, part in known.model_fields.items()}
    fields = {name: field for name, field in fields.items() if name not in ("split", "data_dir")}
    # What these must be is checked with all the other sections.
    fields |= {"name": (Any, None), "protocol": (Any, None)}
    return create_model("Data", __config__=known.model_config, **fields)


def _build_dry(document: _Document, name: str, arguments: dict[str, Any], data: Any) -> None:
    try:
        model = dry_build(name, arguments)
    except Exception as error:  # a plugin's constructor may fail in any way
        document.problem(("model",), str(error) if isinstance(error, ValueError) else f"cannot be built: {error!r}")
        return
    from zoo.data import levels_of

    protocol = data.get("protocol", "threshold") if isinstance(data, dict) else None
    if protocol in ("threshold", "dynamic", "none") and model.likelihood.levels != levels_of(protocol):
        document.problem(
            ("data", "protocol"),
            f"{protocol!r} gives {levels_of(protocol)} levels, but the model's likelihood has "
            f"{model.likelihood.levels}; likelihoods: {', '.join(LIKELIHOODS.names())}",
        )
