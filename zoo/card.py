"""The card of a model folder: its README, for people and for the Hub.

What the zoo writes into it lies between markers and is refreshed by every push; what people write stays.
"""

import hashlib
import re
from io import StringIO
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from ruamel.yaml import YAML, YAMLError

from zoo.errors import RequestError

LIBRARY = "pixelzoo"
TASK = "unconditional-image-generation"
FRONT = re.compile(r"\A---\r?\n(.*?)^---\r?$\n?", re.DOTALL | re.MULTILINE)
STAMP = re.compile(r"\n<!-- pixelzoo:(generated|pushed) ([0-9a-f]{64}) -->\s*\Z")
BLOCK = re.compile(r"<!-- pixelzoo:(\w+) -->\n.*?<!-- /pixelzoo:\1 -->", re.DOTALL)


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
    kind = "class-conditional" if config.get("conditional") else "pixel-level"
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

    Args:
        config, recipe, reference: as for :func:`card`.
        local: the folder's card.
        remote: the card that is on the Hub.

    Raises:
        RequestError: it was edited on both sides, or its front matter is not YAML.
    """
    fresh = card(config, recipe, reference)
    mine = None if local is None or _stamp(local) == "generated" else _merged(local, fresh)
    theirs = None if remote is None or _stamp(remote) == "generated" else _merged(remote, fresh)
    if mine and theirs and mine != theirs and _stamp(remote) != "pushed":
        raise RequestError(
            "README.md was edited here and on the Hub, differently; bring both into the one here, or delete the one "
            "here to keep the Hub's, and push again"
        )
    return mine or theirs or fresh


def described(card_data: dict[str, Any] | None) -> dict[str, Any]:
    """What a card's front matter, anybody's, says of a model: architecture, results and so on, as far as it does."""
    front = card_data if isinstance(card_data, dict) else {}
    about = front.get(LIBRARY)
    kinds = {"architecture": str, "conditional": bool, "dataset": str, "parameters": int}
    said = about.items() if isinstance(about, dict) else ()
    known = {key: value for key, value in said if isinstance(value, kinds.get(key, ()))}
    return known | {"results": _measured(front.get("model-index"))}


def _load(config: dict[str, Any], reference: str | None) -> str:
    classes = config.get("num_classes") or 10
    labels = f", labels=range({min(10, classes)})" if config.get("conditional") else ""
    return f"""
```python
import zoo  # pip install {LIBRARY}

model = zoo.load("{reference or config["name"]}")  # or the path of this folder
x = model.sample({min(10, classes)}{labels}, seed=0)
logp = model.log_prob(x{labels})  # nats
```
"""


def _results(config: dict[str, Any]) -> str:
    if not config.get("results"):
        return "None measured."
    rows = "\n".join(
        f"| {r['dataset']}, {r['split']} | {r['protocol']} | {r['images']:,} "
        f"| {r['nats_per_image']:.2f} ± {r['nats_std_error']:.2f} | {r['bits_per_dim']:.4f} |"
        for r in config["results"]
    )
    return f"""
| data | protocol | images | nats per image | bits per dimension |
|---|---|---|---|---|
{rows}

± is the standard error over the images. Selection used validation only; `zoo eval` measures test again.
Figures of different protocols (`threshold`, `dynamic`, `none`) cannot be compared with each other.
"""


def _training(config: dict[str, Any], recipe: str) -> str:
    training = config.get("training")
    parameters = f"{config['parameters']:,} parameters. " if config.get("parameters") else ""
    if not training or not recipe:
        return f"{parameters}How it was trained is not recorded."
    return f"""
{parameters}{training["epochs"]} epochs on {training["device"]} in {training["seconds"] / 60:.1f} minutes
({training["images_per_second"]:.0f} images/s, {training["threads"]} threads, {training["precision"]}), seed
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
    condition = ["class-conditional"] if config.get("conditional") else []
    data = ModelCardData(
        license="apache-2.0",
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=[LIBRARY, "autoregressive", "likelihood", config["architecture"], *condition],
        datasets=[config["dataset"]] if config.get("dataset") else None,
        model_name=config["name"],
        eval_results=results or None,
        **{LIBRARY: {key: config.get(key) for key in ("architecture", "conditional", "dataset", "parameters")}},
    )
    front = data.to_dict()
    front.pop("model_name", None)
    return front


def _measured(index: Any) -> list[dict[str, Any]]:
    """The results of a ``model-index``, of whatever a stranger wrote."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    try:
        for result in (result for model in index or [] for result in model["results"]):
            data = result["dataset"]
            row = {"dataset": str(data["type"]), "split": str(data["split"]), "protocol": str(data["config"])}
            row = found.setdefault(tuple(row.values()), row)
            for metric in result["metrics"]:
                if metric["type"] in ("nats_per_image", "bits_per_dim"):
                    row[metric["type"]] = float(metric["value"])
                    arguments = metric.get("args") or {}
                    row |= {"images": int(arguments["images"])} if "images" in arguments else {}
                    row |= {"nats_std_error": float(arguments["std_error"])} if "std_error" in arguments else {}
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
    return [row for row in found.values() if "nats_per_image" in row]


def _merged(edited: str, fresh: str) -> str:
    """The edited card with the fresh one's figures: marked blocks, results, and tags that are missing."""
    blocks = {match[1]: match[0] for match in BLOCK.finditer(fresh)}
    body = BLOCK.sub(lambda match: blocks.get(match[1], match[0]), _body(edited))
    kept, new = _front(edited), _front(fresh)
    merged = new | kept | {LIBRARY: new[LIBRARY]}
    for key in ("tags", "datasets"):
        both = [*_listed(kept.get(key)), *_listed(new.get(key))]
        merged |= {key: list(dict.fromkeys(both))} if both else {}
    own = new.get("model-index", [])
    others = [entry for entry in _listed(kept.get("model-index")) if entry.get("name") not in {e["name"] for e in own}]
    merged |= {"model-index": [*own, *others]} if own or others else {}
    return _stamped(_with_front(merged, body), "pushed")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _front(text: str) -> dict[str, Any]:
    match = FRONT.search(text)
    try:
        front = YAML(typ="safe").load(match[1]) if match else {}
    except YAMLError as error:
        raise RequestError(f"the front matter of README.md is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(front or {}, dict):
        raise RequestError(f"the front matter of README.md is {type(front).__name__}; write key: value lines")
    return front or {}


def _body(text: str) -> str:
    return STAMP.sub("\n", FRONT.sub("", text))


def _with_front(front: dict[str, Any], body: str) -> str:
    yaml, stream = YAML(typ="safe"), StringIO()
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output, yaml.allow_unicode = False, False, True
    yaml.dump(front, stream)
    return f"---\n{stream.getvalue()}---\n{body}"


def _stamped(text: str, kind: str) -> str:
    """The text with a last line by which a later push sees whether people changed it."""
    text = text.rstrip("\n")
    return f"{text}\n\n<!-- pixelzoo:{kind} {_digest(text)} -->\n"


def _stamp(text: str) -> str | None:
    """What the zoo did last, "generated" or "pushed", if nobody changed the text since."""
    match = STAMP.search(text)
    return match[1] if match and _digest(text[: match.start()]) == match[2] else None


def _digest(text: str) -> str:
    # However an editor ends lines.
    return hashlib.sha256(text.replace("\r", "").strip().encode()).hexdigest()
