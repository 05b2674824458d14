"""The command line: thin commands over the library; torch is imported inside them, so that help is instant."""

import fnmatch
import importlib
import importlib.util
import json
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache, wraps
from pathlib import Path
from typing import Any

import click

import zoo
from zoo.errors import FailedError, RequestError

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON value on stdout, nothing else there.")
data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Folder with the data: MNIST and its kin in torchvision's layout, or where a folder's relative path begins.",
)
dataset_option = click.option(
    "--data",
    "dataset",
    metavar="NAME",
    help="Data set, or '{name: folder, path: photos}'; by default the one it was trained on.",
)


def main() -> None:
    """Run the command line: exit 0 done, 1 it failed, 2 the request was wrong, 130 Ctrl-C, 143 SIGTERM."""
    # Leave by the door: what is half-written is removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    warnings.showwarning = lambda message, *_: click.echo(f"Warning: {_plain(message)}", err=True)
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(zoo.__version__, prog_name="zoo")
def cli() -> None:
    """A zoo of pixel-level autoregressive image models: train, load, evaluate, sample and check them."""


def command(*arguments: Any, **settings: Any) -> Callable[[Callable[..., int | None]], click.Command]:
    """A command of the zoo, which answers a user's mistake in a few lines and never with a traceback."""

    def decorate(function: Callable[..., int | None]) -> click.Command:
        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> int | None:
            try:
                return function(*args, **kwargs)
            except RequestError as error:
                click.echo(f"Error: {_plain(error)}", err=True)
                return 2
            except FailedError as error:
                click.echo(f"Error: {_plain(error)}", err=True)
                return 1
            except OSError as error:
                click.echo(f"Error: {error.filename or ''}: {error.strerror or error}".replace(" :", ""), err=True)
                # A wrong path is the request's fault, a full disk is not.
                wrong = (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)
                return 2 if isinstance(error, wrong) else 1

        return cli.command(*arguments, **settings)(guarded)

    return decorate


@command("list")
@click.argument("pattern", default="*")
@click.option("--hub", "on_hub", is_flag=True, help="What the Hugging Face Hub has, instead of what has a name here.")
@click.option("--author", help="With --hub: of this user or organization only.")
@json_option
def list_command(pattern: str, on_hub: bool, author: str | None, as_json: bool) -> None:
    """List the models, trained and not, whose name matches PATTERN (such as '*mnist*')."""
    if author is not None and not on_hub:
        raise RequestError("--author chooses among the models of the Hub; add --hub")
    if on_hub:
        rows = [row for row in _on_hub(author) if fnmatch.fnmatchcase(row["name"], pattern)]
    else:
        rows = list(_named(pattern))
    if as_json:
        _print_json(rows)
        return
    table = [("name", "architecture", "conditional", "dataset", "parameters", "weights", "test nats", "protocol")]
    for row in rows:
        test = _result(row["metrics"], "test")
        nats, protocol = (f"{test['nats_per_image']:.2f}", test["protocol"]) if test else ("-", "-")
        conditional = {True: "yes", False: "no"}.get(row["conditional"], "-")
        size = f"{row['parameters']:,}" if isinstance(row["parameters"], int) else "-"
        about = (str(row["architecture"] or "-"), conditional, str(row["dataset"] or "-"), size, row["weights"])
        table.append((row["name"], *about, nats, protocol))
    _print_table(table)


def _named(pattern: str) -> Iterator[dict[str, Any]]:
    from zoo import catalog

    for name in catalog.list_models(pattern):
        try:
            yield _describe(name)
        except Exception as error:  # a broken plugin or folder fails alone
            click.echo(f"{name} is left out: {error}", err=True)


def _on_hub(author: str | None) -> list[dict[str, Any]]:
    from zoo import hub

    try:
        return hub.browse(author)
    except hub.HubError as error:
        click.echo(f"{error}\nInstead, what is here: in the package, and in the cache of the Hub.", err=True)
        trained = [row for row in _named("*") if row["weights"] != "none"]
        return trained + [row for row in hub.cached() if author is None or row["name"].startswith(f"hf-hub:{author}/")]


@command("info")
@click.argument("name")
@json_option
def info_command(name: str, as_json: bool) -> None:
    """Show a model's configuration, layers, receptive field, recipe and results."""
    from zoo import catalog
    from zoo.checking import receptive_field

    # Once, so that all of it is about one commit.
    place = str(catalog.find(name)) if catalog.where(name) == "hub" else name
    model = catalog.create(place)
    about = _describe(place) | {"weights": catalog.where(name)}
    recipe = None
    if about["weights"] != "none":
        path = catalog.find(place) / "recipe.yaml"
        recipe = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    about |= {
        "condition": {
            "labels": model.num_classes,
            "classes": about["config"]["classes"] if about["config"] else [],
            "vectors": model.vector_size,
            "maps": model.map_channels,
            "dropout": model.condition_dropout,
        },
        "layers": [{"name": part, "layer": _one_line(layer)} for part, layer in _leaves(model)],
        "receptive_field": receptive_field(model),
        "recipe": recipe,
    }
    if as_json:
        _print_json(about)
        return
    field = about["receptive_field"]
    facts = [(key, str(about[key])) for key in ("name", "architecture", "conditional", "dataset", "weights")]
    facts += [("parameters", f"{about['parameters']:,}" if about["parameters"] is not None else "-")]
    facts += [("takes", _condition_in_words(about["condition"]))] if about["conditional"] else []
    facts += [
        (f"{r['split']} ({r['protocol']})", f"{r['nats_per_image']:.2f} ± {r['nats_std_error']:.2f} nats per image")
        for r in about["metrics"]
    ]
    facts += [
        (
            "receptive field",
            f"{field['rows_above']} rows up, {field['columns_left']} columns left, "
            f"{field['columns_right']} right; {field['pixels']} pixels, from the middle of the last row",
        )
    ]
    _print_table(facts, header=False)
    click.echo("\nLayers")
    _print_table([(layer["name"], layer["layer"]) for layer in about["layers"]], header=False)
    if recipe:
        click.echo(f"\nRecipe\n{_plain(recipe.rstrip())}")


@command("push")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo", metavar="OWNER/REPO")
@click.option("--private", is_flag=True, help="Make a private repository.")
@click.option("--revision", help="The branch to push to, made if there is none; by default the main one.")
@click.option("--tag", help="A tag for the new commit, such as v1.")
@click.option("--message", help="Of the commit.")
@json_option
def push_command(
    folder: Path, repo: str, private: bool, revision: str | None, tag: str | None, message: str | None, as_json: bool
) -> None:
    """Check the model FOLDER and put it on the Hugging Face Hub as OWNER/REPO, in one commit."""
    from zoo import hub

    pushed = hub.push(folder, repo, private=private, revision=revision, tag=tag, message=message)
    if as_json:
        _print_json(asdict(pushed))
        return
    click.echo(f"{pushed.url} has it, commit {pushed.revision}: {', '.join(pushed.files)}")
    click.echo(f'load it with: zoo.load("{pushed.reference}")')


@command("pull")
@click.argument("ref", metavar="REF")
@json_option
def pull_command(ref: str, as_json: bool) -> None:
    """Fetch a model from the Hugging Face Hub: REF is hf-hub:owner/repo, with @branch, @tag or @commit if you like."""
    from zoo import hub

    pulled = hub.pull(ref if hub.is_reference(ref) or ref.count("/") != 1 else f"{hub.PREFIX}{ref}")
    if as_json:
        _print_json(asdict(pulled) | {"folder": str(pulled.folder)})
        return
    click.echo(f"{pulled.repo} at {pulled.revision}: {', '.join(pulled.files)}, all checked, in {pulled.folder}")
    click.echo(f"sample it with: zoo sample {hub.PREFIX}{pulled.repo}@{pulled.revision} -n 100 -o samples.png")


@command("recipes")
@click.argument("name", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to copy it; by default ./NAME.yaml.")
@json_option
def recipes_command(name: str | None, output: Path | None, as_json: bool) -> None:
    """List the packaged recipes, or copy the one called NAME out to change it."""
    from zoo.recipe import find_recipe, recipe_names

    if name is None:
        rows = [{"name": known, "about": _first_comment(find_recipe(known))} for known in recipe_names()]
        if as_json:
            _print_json(rows)
        else:
            _print_table([(row["name"], row["about"]) for row in rows], header=False)
        return
    if name not in recipe_names():
        raise RequestError(f"no packaged recipe {name!r}; there are {', '.join(recipe_names())}")
    output = output or Path(f"{name}.yaml")
    with _new_file(output) as file:
        file.write(find_recipe(name).read_text(encoding="utf-8"))
    if as_json:
        _print_json({"name": name, "path": str(output)})
    else:
        click.echo(f"{output}; train it with: zoo train {output}")


@command("train")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--dry-run", is_flag=True, help="Check everything, run one batch, estimate the time; write nothing.")
@click.option("--resume", is_flag=True, help="Continue the run in the output folder; begin it if there is none.")
@click.option("--output", type=click.Path(path_type=Path), help="The run's folder; by default runs/NAME.")
@data_dir_option
@json_option
def train_command(
    recipe: str,
    overrides: Sequence[str],
    dry_run: bool,
    resume: bool,
    output: Path | None,
    data_dir: Path | None,
    as_json: bool,
) -> int | None:
    """Train RECIPE, a file or the name of a packaged one (such as cond), and write a model folder.

    KEY=VALUE changes a setting of the recipe, as in training.epochs=2.
    """
    from zoo.recipe import find_recipe, load_recipe

    read = load_recipe(find_recipe(recipe), overrides)
    from zoo import training
    from zoo.signals import Stopped

    if dry_run:
        plan = training.dry_run(read, data_dir)
        if as_json:
            _print_json(plan)
        else:
            _print_table(
                [(key, f"{value:,}" if isinstance(value, int) else str(value)) for key, value in plan.items()],
                header=False,
            )
        return None
    output = output or Path("runs") / read.name
    try:
        with _training_bar() as report:
            summary = training.train(read, output, resume=resume, data_dir=data_dir, report=report)
    except Stopped as stopped:
        again = ["zoo", "train", recipe, *overrides, "--output", str(output), "--resume"]
        again += ["--data-dir", str(data_dir)] if data_dir else []
        click.echo(f"{stopped}: {shlex.join(again)}", err=True)
        return 128 + stopped.number
    if as_json:
        _print_json(summary)
    else:
        click.echo(f"{output}: {_sentence(summary['validation'])}; {_sentence(summary['test'])}")
        click.echo(f"sample it with: zoo sample {output} -n 100 -o samples.png")
    return None


@command("eval")
@click.argument("model")
@dataset_option
@click.option("--split", default="test", type=click.Choice(["train", "validation", "test"]), show_default=True)
@click.option(
    "--protocol", type=click.Choice(["threshold", "dynamic", "none"]), help="By default the one it was trained on."
)
@click.option(
    "--seed", default=0, type=click.IntRange(0, 2**63 - 1), show_default=True, help="Of the bits that dynamic draws."
)
@click.option("--draws", type=click.IntRange(1), help="How often dynamic draws them, to take the mean; by default 4.")
@data_dir_option
@json_option
def eval_command(
    model: str,
    dataset: str | None,
    split: str,
    protocol: str | None,
    seed: int,
    draws: int | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Measure the negative log-likelihood of a trained MODEL in nats per image and bits per dimension."""
    from zoo import catalog
    from zoo.evaluation import DRAWS, evaluate

    # Once, so that all of it is about one commit.
    place = catalog.find(model)
    config = catalog.describe(place)
    section = _data_of(model, config, dataset)
    protocol = protocol or config["protocol"] or "threshold"
    data = section.read(split, data_dir)
    with _bar("evaluating") as progress:
        result = evaluate(
            catalog.load(place),
            data,
            dataset=section.name,
            split=split,
            protocol=protocol,
            seed=seed,
            draws=draws or DRAWS,
            progress=progress,
        )
    if as_json:
        _print_json({"model": model, **asdict(result)})
    else:
        click.echo(f"{model}: {_sentence(asdict(result))}, {result.bits_per_dim:.4f} bits per dimension")


@command("report")
@click.argument("model")
@click.option("--against", metavar="OTHER", help="A model to compare it with, on the same data.")
@dataset_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for index.html, report.md and the pictures; by default reports/MODEL.",
)
@click.option("-n", "--images", type=click.IntRange(2), help="How many test images, drawn at random; by default all.")
@data_dir_option
@json_option
def report_command(
    model: str,
    against: str | None,
    dataset: str | None,
    output: Path | None,
    images: int | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Write a page about a trained MODEL: figures, samples, where its nats are, and how it compares with another."""
    from zoo import catalog, findings, page, report

    # Once, so that all of it is about one commit.
    place, other = (None if one is None else catalog.find(one, everything=True) for one in (model, against))
    section = _data_of(model, catalog.describe(place), dataset)
    told: set[str] = set()

    def progress(what: str, done: int, of: int) -> None:
        if what not in told:
            told.add(what)
            click.echo(f"{what} ...", err=True)

    def read(split: str) -> Any:
        return section.read(split, data_dir)

    found = findings.gather(place, other, section.name, read, images=images, progress=progress)
    output = output or Path("reports") / found.subjects[0].name
    files = page.save(report.title(found), report.blocks(found), output)
    if as_json:
        _print_json({"path": str(files[0]), "files": [str(file) for file in files], "models": findings.figures(found)})
    else:
        click.echo(f"{files[0]}: open it in a browser; it needs nothing else")


@command("sample")
@click.argument("model")
@click.option("-n", "--images", default=100, type=click.IntRange(1), show_default=True, help="How many.")
@click.option("--seed", default=0, type=click.IntRange(0, 2**64 - 1), show_default=True)
@click.option("--labels", help="Classes, as in 0,1,2, or by name; shared equally. By default all.")
@click.option(
    "--vector",
    "vectors",
    multiple=True,
    metavar="H1,H2,...",
    help="For a model of vectors: one; several, each with its --vector, are shared equally among the images.",
)
@click.option(
    "--condition",
    metavar="SPLIT|PATH",
    help="Whose labels, vectors or maps: of a split of the model's data set (test), or tensors of a .safetensors file.",
)
@click.option("--guidance", default=1.0, show_default=True, help="Above 1: exaggerate the condition.")
@click.option("--sampler", default="fast", type=click.Choice(["fast", "naive"]), show_default=True)
@click.option(
    "--temperature", default=1.0, show_default=True, help="Divides the logits; below 1 likelier, less varied."
)
@click.option(
    "--given",
    metavar="SPLIT|PATH",
    help="Complete images: of a split of the model's data set (test), or tensor images of a .safetensors file.",
)
@click.option(
    "--keep",
    type=click.IntRange(0),
    metavar="ROWS",
    help="Rows of the given images to keep; by default half, or what is not NaN in a file.",
)
@click.option("--dtype", type=click.Choice(["float32", "float64", "bfloat16"]), help="To compute in.")
@click.option("--batch-size", type=click.IntRange(1), help="Images at a time; by default as many as --memory allows.")
@click.option("--memory", type=click.IntRange(1), metavar="MIB", help="Bound on what the fast sampler holds at a time.")
@click.option(
    "--verify", "verifying", is_flag=True, help="Hold the samples against one parallel pass; exit 1 if wrong."
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="PATH.png, PATH.gif or PATH.safetensors"
)
@data_dir_option
@json_option
def sample_command(
    model: str,
    images: int,
    seed: int,
    labels: str | None,
    vectors: Sequence[str],
    condition: str | None,
    guidance: float,
    sampler: str,
    temperature: float,
    given: str | None,
    keep: int | None,
    dtype: str | None,
    batch_size: int | None,
    memory: int | None,
    verifying: bool,
    output: Path,
    data_dir: Path | None,
    as_json: bool,
) -> int | None:
    """Draw exact samples of a trained MODEL: a grid (.png), an animation (.gif) or tensors (.safetensors)."""
    if output.suffix not in (".png", ".gif", ".safetensors"):
        raise RequestError(f"output is {str(output)!r}; it must end in .png, .gif or .safetensors")
    if not output.parent.is_dir():
        raise RequestError(f"output is {str(output)!r}, but there is no folder {str(output.parent)!r}; make it first")
    if keep is not None and given is None:
        raise RequestError("--keep says how many rows of given images to keep; name the images with --given")
    if verifying and dtype == "bfloat16":
        raise RequestError("--verify compares with the model in its own precision; leave out --dtype bfloat16")
    import torch

    from zoo import catalog, pictures
    from zoo.sampling import verify

    place = catalog.find(model)
    loaded = catalog.load(place)
    if dtype is not None and dtype != "bfloat16":
        loaded = loaded.to(getattr(torch, dtype))
    config = catalog.describe(place)
    splits = cache(lambda split: _data_of(model, config).read(split, data_dir))
    known = None if given is None else _given(given, config, splits, images, keep)
    chosen = _condition(loaded, splits, images, labels, config["classes"], vectors, condition, given)
    context = loaded.condition(images, **chosen)
    began = time.perf_counter()
    with _bar("sampling pixels") as progress:
        x = loaded.sample(
            images,
            **chosen,
            seed=seed,
            sampler=sampler,
            temperature=temperature,
            guidance=guidance,
            given=known,
            dtype=torch.bfloat16 if dtype == "bfloat16" else None,
            batch_size=batch_size,
            memory=None if memory is None else memory * 2**20,
            progress=progress,
        )
    seconds = time.perf_counter() - began
    verdict = None
    if verifying:
        verdict = verify(loaded, x, context=context, seed=seed, temperature=temperature, guidance=guidance, given=known)
    told = {name: part for name in ("labels", "vectors", "maps") if (part := getattr(context, name)) is not None}
    shown = pictures.named(told["labels"], config["classes"]) if "labels" in told else None
    columns = 10 if images % 10 == 0 or images > 100 else max(1, round(images**0.5))
    if output.suffix == ".png":
        pictures.save_grid(x, output, columns=columns, labels=shown)
    elif output.suffix == ".gif":
        pictures.save_animation(x, output, columns=columns, labels=shown)
    else:
        from zoo.files import save_tensors

        save_tensors({"images": x, **told}, output)
    if as_json:
        found = {} if verdict is None else asdict(verdict) | {"verified": verdict.verified}
        _print_json({"images": images, "seconds": seconds, "path": str(output)} | found)
    else:
        click.echo(f"{output}: {images} images in {seconds:.2f} s")
        if verdict is not None:
            answer = "verified" if verdict.verified else "NOT VERIFIED"
            click.echo(
                f"{answer}: {verdict.mismatches} of {verdict.values:,} draws differ from one parallel pass; "
                f"{verdict.near} too near to a step to tell"
            )
    return 1 if verdict is not None and not verdict.verified else 0


Splits = Callable[[str], Any]
"""Reads a split of the data set that a model was trained on."""


def _given(source: str, config: dict[str, Any], splits: Splits, images: int, keep: int | None) -> Any:
    """Images (images, C, H, W) with NaN where to sample."""
    import torch

    from zoo.data import to_grid

    if source.endswith(".safetensors"):
        x = _tensors(source).get("images")
        if x is None:
            raise RequestError(f"--given {source} holds no tensor images")
        if x.ndim != 4 or x.is_complex():
            raise RequestError(f"--given {source}: images are {x.dtype} {tuple(x.shape)}; they must be (N, C, H, W)")
    else:
        data = _split(splits, source, "--given")
        x = to_grid(data.images[:images], config["protocol"] or "threshold", torch.Generator().manual_seed(0))
    if len(x) < images:
        raise RequestError(f"--given {source} has {len(x)} images; complete no more with -n")
    # A file may mark with NaN what to sample; of whole images the upper half is kept.
    if keep is None and not x.isnan().any():
        keep = x.shape[2] // 2
    x = x[:images].float()
    if keep is not None:
        x = x.clone()
        x[:, :, keep:] = torch.nan
    return x


def _condition(
    model: Any,
    splits: Splits,
    images: int,
    labels: str | None,
    classes: Sequence[str],
    vectors: Sequence[str],
    source: str | None,
    given: str | None,
) -> dict[str, Any]:
    """The labels, vectors and maps to sample with: as told, of the source, or by default all classes or of test."""
    import torch

    from zoo.sampling import share

    told: dict[str, Any] = {}
    if labels is not None:
        told["labels"] = share(_labels(labels, classes), images)
    if vectors:
        told["vectors"] = share([_numbers("--vector", vector, float) for vector in vectors], images)
    wanted = [name for name in model.takes if name not in told]
    if source is not None and not wanted:
        raise RequestError(
            "--condition has nothing to tell: the model takes no condition, or you gave it all; leave it out"
        )
    place, option = source or given, "--given" if source is None else "--condition"
    found: dict[str, Any] = {}
    if wanted and (place is not None or wanted != ["labels"]):
        if place is not None and place.endswith(".safetensors"):
            found = _tensors(place)
        else:
            data = _split(splits, place or "test", option)
            found = {name: getattr(data, name) for name in wanted}
    for name in wanted:
        part = found.get(name)
        if part is None and name == "labels" and source is None:
            told[name] = share(range(model.num_classes), images)
        elif part is None or part.ndim == 0:
            raise RequestError(
                f"{place or 'test'} has no {name}, one for each image; name what has with --condition, a split or a "
                ".safetensors file"
            )
        elif place is None:
            # Nobody asked for these, so they may come again.
            told[name] = part[torch.arange(images) % len(part)]
        elif len(part) < images:
            raise RequestError(f"{place} has {name} for {len(part)} images; ask for no more with -n")
        else:
            told[name] = part[:images]
    return told


def _split(splits: Splits, name: str, option: str) -> Any:
    if name not in ("train", "validation", "test"):
        raise RequestError(f"{option} is {name!r}; name a split (train, validation, test) or a .safetensors file")
    return splits(name)


def _data_of(model: str, config: dict[str, Any], dataset: str | None = None) -> Any:
    """The data set that was named, or else that a model was trained on, as a recipe has it."""
    from zoo import catalog
    from zoo.recipe import parse_data, parse_value

    if dataset is not None:
        return parse_data(parse_value(dataset))
    if config["dataset"] is None:
        raise RequestError("the model does not say what it was trained on; name a data set or a .safetensors file")
    section = parse_data({**config.get("data_args", {}), "name": config["dataset"]})
    strangers = catalog.where(model) == "hub"
    of = section.model_dump()
    while isinstance(of, dict):
        # Which files of yours are read, a stranger's model does not decide.
        if strangers and of.get("name") == "folder":
            raise RequestError(
                f"{model} was trained on images of its author; name yours: --data "
                "'{name: folder, path: ...}' of zoo eval and zoo report, or a .safetensors file for zoo sample"
            )
        of = of.get("of")
    return section


def _tensors(path: str) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from None


@command("check")
@click.argument("target")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--image-shape", metavar="C,H,W", help="Of the input; by default the model's own.")
@click.option("--layer", is_flag=True, help="TARGET is a layer: it may see its own position.")
@json_option
def check_command(
    target: str, arguments: Sequence[str], image_shape: str | None, layer: bool, as_json: bool
) -> int | None:
    """Measure whether TARGET is causal: a zoo name, package.module:Class or file.py:Class.

    KEY=VALUE are constructor arguments, as in channels=8. Exit code 1 if it is not causal.
    """
    from zoo.checking import check

    shape = None
    if image_shape is not None:
        try:
            shape = [int(part) for part in image_shape.split(",")]
            if len(shape) != 3 or min(shape) < 1:
                raise ValueError
        except ValueError:
            raise RequestError(f"--image-shape is {image_shape!r}; write C,H,W, such as 1,28,28") from None
    module, is_layer = _target(target, dict(_key_value(argument) for argument in arguments))
    try:
        report = check(module, shape, layer=layer or is_layer)
    except RequestError:
        raise
    except Exception as error:  # a student's module may fail in any way
        raise RequestError(f"{target} cannot be checked: {type(error).__name__}: {error}") from error
    if as_json:
        _print_json(asdict(report))
    else:
        _print_report(target, report)
    return 0 if report.causal and report.verified is not False else 1


def _target(target: str, arguments: dict[str, Any]) -> tuple[Any, bool]:
    """The module to check, and whether it is a registered layer."""
    from torch import nn

    from zoo import catalog
    from zoo.recipe import check_arguments
    from zoo.registry import LAYERS, MODELS

    layer = ":" not in target and target in LAYERS.names()
    try:
        if ":" in target:
            found = _imported(target)
            module = found if isinstance(found, nn.Module) and not arguments else found(**arguments)
        elif layer or target in MODELS.names():
            registry = LAYERS if layer else MODELS
            arguments = getattr(registry.get(target), "check_with", {}) | arguments
            check_arguments(registry, target, arguments)
            module = registry.build(target, **arguments)
        else:
            module = catalog.create(target, **arguments) if arguments else catalog.load(target)
    except (RequestError, FailedError):
        raise
    except Exception as error:  # a student's constructor may fail in any way
        raise RequestError(
            f"{target} cannot be built: {type(error).__name__}: {error}; constructor arguments are given as key=value"
        ) from error
    if not isinstance(module, nn.Module):
        raise RequestError(f"{target} gives {type(module).__name__}; name a torch.nn.Module or what builds one")
    return module, layer


def _imported(target: str) -> Any:
    place, _, name = target.partition(":")
    # As if Python had been started there, so that a file finds its neighbours.
    sys.path.insert(0, str(Path(place).resolve().parent if place.endswith(".py") else Path.cwd()))
    try:
        if place.endswith(".py"):
            # Not under its own name, which may be that of a module in use, such as copy.
            spec = importlib.util.spec_from_file_location(f"checked_{Path(place).stem}", place)
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except Exception as error:
        raise RequestError(f"{place} does not import: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise RequestError(f"{place} has no {name!r}; write package.module:Class or file.py:Class")
    return getattr(module, name)


def _key_value(text: str) -> tuple[str, Any]:
    from zoo.recipe import parse_value

    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise RequestError(f"{text!r} is no constructor argument; write key=value, such as channels=8")
    return key, parse_value(value)


def _numbers(option: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(number) for number in text.split(",")]
    except ValueError:
        raise RequestError(f"{option} is {text!r}; write numbers with commas between, such as 0,1,2") from None


def _labels(text: str, classes: Sequence[str]) -> list[int]:
    """Classes by their names or, where that is none, their numbers."""
    numbers = {name: str(number) for number, name in enumerate(classes)}
    named = [numbers.get(word.strip(), word) for word in text.split(",")]
    try:
        return [int(word) for word in named]
    except ValueError:
        known = f"names or numbers of classes: {', '.join(map(_plain, classes))}" if classes else "numbers, as in 0,1,2"
        raise RequestError(f"--labels is {text!r}; write {known}; with commas between") from None


def _describe(name: str) -> dict[str, Any]:
    from zoo import catalog, folder
    from zoo.recipe import dry_build

    weights = catalog.where(name)
    if weights == "none":
        model = dry_build(name, {})
        return {
            "name": name,
            "architecture": name,
            "conditional": model.conditional,
            "dataset": None,
            "parameters": folder.count_parameters(model),
            "weights": weights,
            "metrics": [],
            "config": None,
        }
    config = catalog.describe(name)
    return {
        "name": config["name"],
        "architecture": config["architecture"],
        "conditional": config["conditional"],
        "dataset": config["dataset"],
        "parameters": config["parameters"],
        "weights": weights,
        "metrics": config["results"],
        "config": config,
    }


def _result(metrics: list[dict[str, Any]], split: str) -> dict[str, Any] | None:
    return next((result for result in metrics if result["split"] == split), None)


def _sentence(result: dict[str, Any]) -> str:
    return (
        f"{result['nats_per_image']:.2f} ± {result['nats_std_error']:.2f} nats per image on {result['images']:,} "
        f"{result['split']} images of {result['dataset']} ({result['protocol']})"
    )


def _leaves(model: Any) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in model.named_modules() if not list(part.children())]


def _condition_in_words(condition: dict[str, Any]) -> str:
    taken = {
        "labels": f"labels, {condition['labels']} classes"
        + (f" ({_plain(', '.join(condition['classes']))})" if condition["classes"] else ""),
        "vectors": f"vectors of {condition['vectors']} numbers",
        "maps": f"maps of {condition['maps']} channels",
    }
    words = ", ".join(text for name, text in taken.items() if condition[name])
    return f"{words}; without them, too, and with guidance" if condition["dropout"] else words


def _one_line(layer: Any) -> str:
    return " ".join(repr(layer).split())


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")


def _plain(text: Any) -> str:
    """What a terminal may be shown of a stranger's words: no control characters."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in str(text))


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value))


def _print_table(rows: Sequence[Sequence[str]], header: bool = True) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=header, box=None, pad_edge=False)
    for index, title in enumerate(rows[0] if rows else []):
        table.add_column(title if header else None, no_wrap=header or index == 0)
    for row in rows[header:]:
        table.add_row(*map(_plain, row))
    # In a pipe there is no edge to stop at.
    Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def _print_report(target: str, report: Any) -> None:
    verdict = "causal" if report.causal else "NOT CAUSAL"
    click.echo(f"{target}: {verdict}")
    if report.leaks:
        shown = ", ".join(map(str, report.leaks[:8])) + (", ..." if len(report.leaks) > 8 else "")
        click.echo(f"  leaks (rows, columns, channel from the output): {shown}")
    way = "row by row" if report.slope is None else f"slope {report.slope}"
    proof = "none found" if report.schedule is None else f"{way}: a proof of causality, given the taps"
    click.echo(f"  schedule over fronts: {proof}")
    answer = {True: "yes", False: "NO: front by front and all at once differ", None: "not applicable"}[report.verified]
    click.echo(f"  verified: {answer}")
    click.echo(f"  inputs that reach the output in the middle: {report.reached}")
    click.echo(f"  blind spot: {len(report.blind_spot)} earlier inputs inside their bounding box do not")
    for note in report.notes:
        click.echo(f"  note: {note}")


@contextmanager
def _new_file(path: Path) -> Iterator[Any]:
    try:
        with path.open("x", encoding="utf-8") as file:
            yield file
    except FileExistsError:
        raise RequestError(f"{path} exists already; name another with -o") from None


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; when that is no terminal, a line every few seconds."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        said = time.monotonic()

        def say(done: int, total: int) -> None:
            nonlocal said
            if time.monotonic() - said > 5:
                said = time.monotonic()
                click.echo(f"{title}: {done} of {total}", err=True)

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _training_bar() -> Iterator[Callable[[Any], None]]:
    """Loss, images per second and time left: a bar, or a plain line every few seconds."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    mean, speed, said = None, None, time.monotonic()

    def smooth(now: Any) -> str:
        nonlocal mean, speed
        mean = now.nats if mean is None else mean + 0.02 * (now.nats - mean)
        speed = now.images_per_second if speed is None else speed + 0.02 * (now.images_per_second - speed)
        return f"epoch {now.epoch}  {mean:.2f} nats  {speed:.0f} images/s"

    if not console.is_terminal:

        def say(now: Any) -> None:
            nonlocal said
            text = smooth(now)
            if time.monotonic() - said > 5 or now.step == now.steps:
                said = time.monotonic()
                left = (now.steps - now.step) * now.images / speed
                click.echo(f"step {now.step} of {now.steps}  {text}  {left:.0f} s left", err=True)

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=None)
        yield lambda now: bar.update(task, description=smooth(now), completed=now.step, total=now.steps)
