"""The card of a model folder: its README, for people and for the Hub.

What the zoo writes into it lies between markers and is refreshed by every push; what people write stays.
"""

import hashlib
import math
import re
from io import StringIO
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from ruamel.yaml import YAML, YAMLError

from zoo.errors import RequestError

LIBRARY = "pixelzoo"
TASK = "unconditional-image-generation"
METRICS = ("nats_per_image", "bits_per_dim")
ABOUT = {"architecture": str, "conditional": bool, "dataset": str, "parameters": int}
"""What the front matter says of a model beside its results, and of which type."""

FRONT = re.compile(r"\A\ufeff?\s*---[ \t]*\n(.*?)^---[ \t]*$\n?", re.DOTALL | re.MULTILINE)
STAMP = re.compile(r"\n*<!-- pixelzoo:(generated|pushed) ([0-9a-f]{64}) -->[ \t]*\n?")
BLOCK = re.compile(r"<!-- pixelzoo:(\w+) -->\n(?:(?!<!-- pixelzoo:).)*?<!-- /pixelzoo:\1 -->", re.DOTALL)


def card(config: dict[str, Any], recipe: str, reference: str | None = None) -> str:
    """Markdown with YAML front matter, from a model's config and its recipe.

    Args:
        config: as ``config.json`` has it.
        recipe: YAML text, or nothing.
        reference: what loads the model; by default its name, as if it were the zoo's own.
    """
    blocks = {"load": _load(config, reference), "results": _results(config), "training": _training(config, recipe)}
    written = {
        name: f"<!-- pixelzoo:{name} -->\n{text.strip()}\n<!-- /pixelzoo:{name} -->" for name, text in blocks.items()
    }
    about = (
        f"an autoregressive model of {config['dataset']} images" if config.get("dataset") else "an autoregressive model"
    )
    kind = "conditional" if config.get("conditional") else "pixel-level"
    kind = "class-conditional" if _only_classes(config) else kind
    picture = "\n![Samples](samples.png)\n" if config.get("results") else ""
    body = f"""
# {config["name"]}

A {kind} `{config["architecture"]}`: {about} that gives exact likelihoods and exact samples.
{picture}
{written["load"]}

## Results

{written["results"]}

## Training

{written["training"]}

## Use and limits

For teaching, for research on likelihoods and sampling, and for small images like those it was trained on. It knows
nothing else: other images, and other sizes, get likelihoods without much meaning.

## Citation

van den Oord, Kalchbrenner and Kavukcuoglu, *Pixel Recurrent Neural Networks*, 2016 (arXiv:1601.06759); van den Oord et
al., *Conditional Image Generation with PixelCNN Decoders*, 2016 (arXiv:1606.05328).
"""
    return _stamped(_with_front(_front_matter(config), body), "generated")


def refreshed(config: dict[str, Any], recipe: str, reference: str, local: str | None, remote: str | None) -> str:
    """The card to push: a fresh one, or the one that people edited, here or on the Hub, with its figures renewed.

    The last line of every card that the zoo writes tells which text it was. So an untouched card is known, and so is
    an edited one that descends from what is on the Hub.

    Args:
        config, recipe, reference: as for :func:`card`.
        local: the folder's card.
        remote: the card that is on the Hub.

    Raises:
        RequestError: both have words of people and neither descends from the other, or front matter is not YAML.
    """
    fresh = card(config, recipe, reference)
    mine = None if local is None or is_untouched(local) else _merged(local, fresh)
    theirs = None if remote is None or _written(remote) == "generated" else _merged(remote, fresh)
    if mine and theirs and mine != theirs and not (is_untouched(remote) and _origin(local) == _origin(remote)):
        raise RequestError(
            "README.md was edited here and on the Hub, differently; bring both into the one here, or delete the one "
            "here to keep the Hub's, and push again"
        )
    return mine or theirs or fresh


def is_untouched(text: str) -> bool:
    """Whether nobody changed the card since the zoo wrote it."""
    return _origin(text) == _digest(STAMP.sub("\n", text.replace("\r\n", "\n")))


def described(card_data: dict[str, Any] | None) -> dict[str, Any]:
    """What a card's front matter, anybody's, says of a model: architecture, results and so on, as far as it does."""
    front = card_data if isinstance(card_data, dict) else {}
    about = front.get(LIBRARY)
    said = about.items() if isinstance(about, dict) else ()
    known = {key: value for key, value in said if isinstance(value, ABOUT.get(key, ()))}
    return known | {"results": _measured(front.get("model-index"))}


def _load(config: dict[str, Any], reference: str | None) -> str:
    classes = config.get("num_classes") or 10
    count = min(10, classes)
    conditions = [f"labels=range({count})"] if config.get("num_classes") or _only_classes(config) else []
    given = ""
    for name, size in (("vectors", config.get("vector_size")), ("maps", config.get("map_channels"))):
        if size:
            conditions.append(f"{name}={name}")
            shape = f"({count}, {size})" if name == "vectors" else f"({count}, {size}, height, width)"
            given += f"{name} = ...  # a float tensor {shape}\n"
    told = "".join(f", {condition}" for condition in conditions)
    return f"""
```python
import zoo  # pip install {LIBRARY}

model = zoo.load("{reference or config["name"]}")  # or the path of this folder
{given}x = model.sample({count}{told}, seed=0)
logp = model.log_prob(x{told})  # nats
```
"""


def _only_classes(config: dict[str, Any]) -> bool:
    other = config.get("vector_size") or config.get("map_channels")
    return bool(config.get("conditional")) and not other


def _results(config: dict[str, Any]) -> str:
    if not config.get("results"):
        return "None measured."
    rows = "\n".join(
        f"| {r['dataset']}, {r['split']} | {r['protocol']} | {r['images']:,} "
        f"| {r['nats_per_image']:.2f} ± {r['nats_std_error']:.2f} | {r['bits_per_dim']:.4f} |"
        for r in config["results"]
    )
    draws = max(r.get("draws") or 1 for r in config["results"])
    drawn = f" Of {draws} draws of the bits of each image, the mean counts." if draws > 1 else ""
    return f"""
| data | protocol | images | nats per image | bits per dimension |
|---|---|---|---|---|
{rows}

± is the standard error over the images.{drawn} Selection used validation only; `zoo eval` measures test again.
Figures of different protocols (`threshold`, `dynamic`, `none`) cannot be compared with each other.
"""


def _training(config: dict[str, Any], recipe: str) -> str:
    training = config.get("training")
    parameters = f"{config['parameters']:,} parameters. " if config.get("parameters") else ""
    known = {
        "epochs",
        "device",
        "seconds",
        "images_per_second",
        "threads",
        "precision",
        "seed",
        "zoo",
        "torch",
        "commit",
    }
    if not isinstance(training, dict) or not known <= training.keys() or not recipe:
        return f"{parameters}How it was trained is not recorded."
    return f"""
{parameters}{training["epochs"]} epochs on {training["device"]} in {_rounded(training["seconds"], 60, 1)} minutes
({_rounded(training["images_per_second"], 1, 0)} images/s, {training["threads"]} threads, {training["precision"]}), seed
{training["seed"]}, {LIBRARY} {training["zoo"]}, torch {training["torch"]}, commit {training["commit"] or "unknown"}.
`zoo train recipe.yaml` trains it again:

```yaml
{recipe.strip()}
```
"""


def _front_matter(config: dict[str, Any]) -> dict[str, Any]:
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=result["dataset"],
            dataset_name=f"{result['dataset']} ({result['protocol']})",
            dataset_config=result["protocol"],
            dataset_split=result["split"],
            metric_type=metric,
            metric_name=title,
            metric_value=round(result[metric], 4),
            metric_args={"images": result["images"], **error},
        )
        for result in config.get("results") or []
        for metric, title, error in (
            ("nats_per_image", "Nats per image", {"std_error": round(result["nats_std_error"], 4)}),
            ("bits_per_dim", "Bits per dimension", {}),
        )
    ]
    condition = ["class-conditional"] if _only_classes(config) else []
    condition += ["conditional"] if config.get("conditional") and not condition else []
    data = ModelCardData(
        license="apache-2.0",
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=[LIBRARY, "autoregressive", "likelihood", config["architecture"], *condition],
        datasets=[config["dataset"]] if config.get("dataset") else None,
        model_name=config["name"],
        eval_results=results or None,
        **{LIBRARY: {key: config.get(key) for key in ABOUT}},
    )
    front = data.to_dict()
    front.pop("model_name", None)
    return front


def _rounded(value: Any, unit: float, digits: int) -> str:
    return f"{value / unit:.{digits}f}" if isinstance(value, int | float) else "?"


def _measured(index: Any) -> list[dict[str, Any]]:
    """The results of a ``model-index``, of whatever a stranger wrote."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    try:
        for result in (result for model in index or [] for result in model["results"]):
            data = result["dataset"]
            row = {"dataset": str(data["type"]), "split": str(data["split"]), "protocol": str(data["config"])}
            row = found.setdefault(tuple(row.values()), row)
            for metric in result["metrics"]:
                if metric["type"] in METRICS:
                    row[metric["type"]] = float(metric["value"])
                    arguments = metric.get("args") or {}
                    row |= {"images": int(arguments["images"])} if "images" in arguments else {}
                    row |= {"nats_std_error": float(arguments["std_error"])} if "std_error" in arguments else {}
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
    return [row for row in found.values() if math.isfinite(row.get("nats_per_image", math.nan))]


def _merged(edited: str, fresh: str) -> str:
    """The edited card with the fresh one's figures: marked blocks, results, and what the front matter lacks."""
    blocks = {match[1]: match[0] for match in BLOCK.finditer(fresh)}
    (front, body), (new, _) = _parts(edited), _parts(fresh)
    for key, value in new.items():
        front.setdefault(key, value)
    front[LIBRARY] = new[LIBRARY]
    for key in ("tags", "datasets"):
        kept = _listed(front.get(key))
        both = kept + [value for value in _listed(new.get(key)) if value not in kept]
        front |= {key: both} if both else {}
    index = _merged_index(_listed(front.get("model-index")), _listed(new.get("model-index")))
    front |= {"model-index": index} if index else {}
    return _stamped(_with_front(front, BLOCK.sub(lambda match: blocks.get(match[1], match[0]), body)), "pushed")


def _merged_index(kept: list[Any], new: list[Any]) -> list[Any]:
    """Our results in place of our older ones; other models', and other metrics', stay."""
    names = {entry["name"] for entry in new}
    ours = [entry for entry in kept if isinstance(entry, dict) and entry.get("name") in names]
    foreign = [result for entry in ours for result in _listed(entry.get("results")) if not _is_ours(result)]
    merged = [entry | {"results": [*entry["results"], *foreign]} for entry in new]
    return merged + [entry for entry in kept if entry not in ours]


def _is_ours(result: Any) -> bool:
    metrics = _listed(result.get("metrics")) if isinstance(result, dict) else []
    return bool(metrics) and all(isinstance(metric, dict) and metric.get("type") in METRICS for metric in metrics)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def _parts(text: str) -> tuple[dict[str, Any], str]:
    """Front matter and body; comments, quotes and order of the front matter are kept."""
    text = STAMP.sub("\n", text.replace("\r\n", "\n"))
    match = FRONT.search(text)
    if match is None:
        return {}, text
    try:
        front = _yaml().load(match[1])
    except YAMLError as error:
        raise RequestError(f"the front matter of README.md is not YAML: {' '.join(str(error).split())}") from None
    # Else it is two rules across the page with text between them.
    return (front, text[match.end() :]) if isinstance(front, dict) else ({}, text)


def _with_front(front: dict[str, Any], body: str) -> str:
    stream = StringIO()
    _yaml().dump(front, stream)
    return f"---\n{stream.getvalue()}---\n{body}"


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 10**6
    return yaml


def _stamped(text: str, kind: str) -> str:
    """The text with a last line by which a later push sees whether people changed it."""
    text = text.rstrip("\n")
    return f"{text}\n\n<!-- pixelzoo:{kind} {_digest(text)} -->\n"


def _origin(text: str) -> str | None:
    """Which text the zoo wrote last, before people changed it."""
    stamps = STAMP.findall(text.replace("\r\n", "\n"))
    return stamps[-1][1] if stamps else None


def _written(text: str) -> str | None:
    """How the zoo wrote the text, "generated" or "pushed", if nobody changed it since."""
    return STAMP.search(text)[1] if is_untouched(text) else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()
