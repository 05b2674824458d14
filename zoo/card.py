"""The card of a model folder: its README, for people and for the Hub."""

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

METRICS = (("nats_per_image", "Nats per image"), ("bits_per_dim", "Bits per dimension"))


def card(config: dict[str, Any], recipe: str) -> str:
    """Markdown with YAML front matter, from a model's config and its recipe."""
    name, training, results = config["name"], config["training"], config["results"]
    condition = "class-conditional" if config["conditional"] else "unconditional"
    images = min(10, config["num_classes"] or 10)
    labels = f", labels=range({images})" if config["conditional"] else ""
    rows = "\n".join(
        f"| {r['dataset']}, {r['split']} | {r['protocol']} | {r['images']:,} "
        f"| {r['nats_per_image']:.2f} ± {r['nats_std_error']:.2f} | {r['bits_per_dim']:.4f} |"
        for r in results
    )
    return f"""---
{_front_matter(config)}
---

# {name}

A {condition} `{config["architecture"]}` with {config["parameters"]:,} parameters: an autoregressive model of
{config["dataset"]} images that gives exact likelihoods and exact samples.

![100 samples](samples.png)

```python
import zoo

model = zoo.load("{name}")  # or the path of this folder
x = model.sample({images}{labels}, seed=0)
logp = model.log_prob(x{labels})  # nats
```

## Results

| data | protocol | images | nats per image | bits per dimension |
|---|---|---|---|---|
{rows}

± is the standard error over the images. Selection used validation only; `zoo eval {name}` measures test again.
Figures of different protocols (`threshold`, `dynamic`, `none`) cannot be compared with each other.

## Training

{training["epochs"]} epochs on {training["device"]} in {training["seconds"] / 60:.1f} minutes
({training["images_per_second"]:.0f} images/s, {training["threads"]} threads, {training["precision"]}), seed
{training["seed"]}, pixelzoo {training["zoo"]}, torch {training["torch"]}, commit {training["commit"] or "unknown"}.
`zoo train recipe.yaml` trains it again:

```yaml
{recipe.strip()}
```

## Use and limits

For teaching, for research on likelihoods and sampling, and for small images like those it was trained on. It knows
nothing else: other images, and other sizes, get likelihoods without much meaning.

## Citation

van den Oord, Kalchbrenner and Kavukcuoglu, *Pixel Recurrent Neural Networks*, 2016 (arXiv:1601.06759); van den Oord et
al., *Conditional Image Generation with PixelCNN Decoders*, 2016 (arXiv:1606.05328).
"""


def _front_matter(config: dict[str, Any]) -> str:
    data = ModelCardData(
        license="apache-2.0",
        library_name="pixelzoo",
        pipeline_tag="unconditional-image-generation",
        tags=["pixelzoo", "autoregressive", "likelihood", config["architecture"]]
        + (["class-conditional"] if config["conditional"] else []),
        datasets=[config["dataset"]],
        model_name=config["name"],
        eval_results=[
            EvalResult(
                task_type="unconditional-image-generation",
                dataset_type=result["dataset"],
                dataset_name=f"{result['dataset']} ({result['protocol']})",
                dataset_split=result["split"],
                metric_type=metric,
                metric_name=title,
                metric_value=round(result[metric], 4),
            )
            for result in config["results"]
            for metric, title in METRICS
        ],
    )
    return data.to_yaml()
