"""Train a recipe into a model folder; a killed run goes on where it stopped, bit for bit on the CPU.

Everything random is a function of (seed, epoch, step), so a checkpoint holds weights, their average, Adam's moments
and the step, nothing else.
"""

import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import zoo
from zoo import folder, pictures, plots
from zoo.card import card
from zoo.causal import Context, nothing
from zoo.checkpoint import Run, restore, save_checkpoint
from zoo.data import ImageSet, to_grid
from zoo.errors import FailedError
from zoo.evaluation import DRAWS, Result, check_fit, condition, evaluate, prompts
from zoo.files import write_text
from zoo.models import PixelModel
from zoo.recipe import Recipe, dump_recipe
from zoo.registry import MODELS
from zoo.run_folder import METRICS, opened, read_metrics, trim_metrics
from zoo.signals import Stopped, collected_signals

CHECKPOINT = "checkpoint.safetensors"


class TrainingError(FailedError):
    """A training that cannot go on."""


@dataclass(frozen=True)
class Progress:
    """What the caller is told after each step: where the training is, how well and how fast."""

    epoch: int
    step: int
    steps: int
    images: int
    nats: float
    images_per_second: float


Report = Callable[[Progress], None]


def train(
    recipe: Recipe,
    output: Path,
    *,
    resume: bool = False,
    data_dir: Path | None = None,
    report: Report = lambda progress: None,
) -> dict[str, Any]:
    """Train a recipe and write its model folder to ``output``.

    Minimizes the mean over images of -log p(x), in nats, with Adam; with a weight decay d, or a prior that makes one,
    plus d / 2 times the sum of the squares of all weights. Evaluates and publishes the averaged weights.

    Args:
        resume: continue the run in ``output``; begin it if there is none.
        report: called after each step.

    Returns:
        ``run, epochs, images_per_second, validation, test``.

    Raises:
        RequestError: the data does not fit the model, or ``output`` is not free for this run.
        TrainingError: the loss is no longer finite; the last good checkpoint is kept.
        Stopped: SIGINT or SIGTERM came; the run is saved.
    """
    train_set, validation_set, test_set = (
        recipe.data.read(split, data_dir) for split in ("train", "validation", "test")
    )
    run, commit = begin(recipe), _commit()
    for part in (train_set, validation_set, test_set):
        check_fit(run.model, part)
    with opened(recipe, output, resume):
        if (output / "config.json").is_file():
            return _summary(output, folder.read_config(output))
        (output / "previews").mkdir(exist_ok=True)
        run.data = train_set.digest()
        if (output / CHECKPOINT).is_file():
            restore(run, output / CHECKPOINT)
        done = run.step // _steps_per_epoch(recipe, train_set)
        trim_metrics(output, sum(map(recipe.training.validates, range(1, done + 1))))
        with collected_signals() as signals, _forked_rng():
            _loop(recipe, run, train_set.to(_device()), validation_set, output, report, signals)
        config = _publish(recipe, run, train_set, validation_set, test_set, output, commit)
        (output / CHECKPOINT).unlink(missing_ok=True)
    return _summary(output, config)


def dry_run(recipe: Recipe, data_dir: Path | None = None) -> dict[str, Any]:
    """Build everything, train and validate one batch (twice, to time the second), and tell what it all would take."""
    data = recipe.data.read("train", data_dir).to(_device())
    run = begin(recipe)
    check_fit(run.model, data)
    batch = torch.arange(min(recipe.training.batch_size, len(data)))
    losses = []
    for _ in range(2):
        began = time.perf_counter()
        losses.append(step(recipe, run, data, batch, math.inf))
        seconds = time.perf_counter() - began
    validation = recipe.data.read("validation", data_dir)
    check_fit(run.model, validation)
    for _ in range(2):
        began = time.perf_counter()
        part = _evaluate(recipe, run, "validation", validation.each(lambda part: part[:100]), 1)
        per_image = (time.perf_counter() - began) / part.images
    epochs = recipe.training.epochs
    steps = epochs * _steps_per_epoch(recipe, data)
    validations = sum(map(recipe.training.validates, range(1, epochs + 1)))
    return {
        "name": recipe.name,
        "architecture": recipe.model.name,
        "parameters": folder.count_parameters(run.model),
        "peak_bytes": _peak_bytes(),
        "images": len(data),
        "steps": steps,
        "validations": validations,
        "weight_decay": recipe.weight_decay(len(data)),
        "precision": str(precision(recipe.training.precision, _device())).removeprefix("torch."),
        "device": _device().type,
        "first_batch_nats": losses[0],
        "estimated_seconds": round(steps * seconds + validations * len(validation) * per_image, 1),
    }


def begin(recipe: Recipe) -> Run:
    """A run at step 0, its weights drawn from the recipe's seed."""
    with _forked_rng():
        torch.manual_seed(recipe.seed)
        model = MODELS.build(recipe.model.name, **recipe.model.arguments)
    return start(model, recipe)


def start(model: PixelModel, recipe: Recipe) -> Run:
    """A run at step 0 of a model with the weights it has."""
    model = model.to(_device(), memory_format=torch.channels_last)

    @torch.no_grad()
    def average(averages: list[Tensor], current: list[Tensor], updates: Tensor) -> None:
        # The decay grows from 0, so that the first weights, which are noise, are soon forgotten.
        decay = min(recipe.training.ema, (1 + int(updates)) / (10 + int(updates)))
        torch._foreach_lerp_(averages, current, 1 - decay)

    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=False)
    settings = recipe.optimizer
    optimizer = torch.optim.Adam(
        model.parameters(),
        lr=settings.learning_rate,
        betas=settings.betas,
        fused=True,
    )
    return Run(model, averaged, optimizer)


def order(seed: int, epoch: int, images: int) -> Tensor:
    """The order (images,) in which an epoch, counted from 0, goes through the images: a function of its arguments."""
    return torch.randperm(images, generator=torch.Generator().manual_seed(_seed(seed, 0, epoch)))


def step(recipe: Recipe, run: Run, data: ImageSet, batch: Tensor, steps: float) -> float:
    """One step of Adam on the images ``batch``; returns their mean nats before it."""
    model, device = run.model, next(run.model.parameters()).device
    # The one source of randomness of a step: nothing needs to be remembered to repeat it.
    torch.manual_seed(_seed(recipe.seed, 1, run.step))
    x = to_grid(data.images[batch], recipe.data.protocol)
    context = dropped(Context(**condition(model, data, batch)), model.condition_dropout)
    dtype = precision(recipe.training.precision, device)
    autocast = torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext()
    model.train()
    with autocast:
        logits = model(x, context)
    loss = -model.likelihood.log_prob(logits.float(), x).mean()
    run.optimizer.zero_grad()
    loss.backward()
    # Here, not in the optimizer: clipped together with the data's part, it weighs what it should against it.
    add_decay(model, recipe.weight_decay(len(data)))
    norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip or math.inf)
    # Asked for together: on a GPU each question waits for all that was begun.
    nats, norm = torch.stack((loss.detach(), norm)).tolist()
    if not math.isfinite(nats + norm):
        raise TrainingError(
            f"loss {nats}, gradient norm {norm} in step {run.step}: it was not taken; "
            "train again into another --output with a lower optimizer.learning_rate or training.precision=float32"
        )
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.optimizer.learning_rate * _schedule(run.step, recipe.optimizer.warmup_steps, steps)
    run.optimizer.step()
    run.step += 1
    run.average.update_parameters(model)
    return nats


def add_decay(model: nn.Module, weight_decay: float) -> None:
    """Add the gradient of weight_decay / 2 times the sum of the squares of all weights to the gradients that are there.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> layer.weight.data.fill_(3.0).mean().item(), layer.weight.grad
        (3.0, None)
        >>> layer(torch.ones(1, 1)).sum().backward()
        >>> add_decay(layer, 0.5)
        >>> layer.weight.grad.item()
        2.5
    """
    if weight_decay == 0:
        return
    for weight in model.parameters():
        if weight.grad is not None:
            weight.grad.add_(weight.detach(), alpha=weight_decay)


def dropped(context: Context, share: float) -> Context:
    """The condition of a batch, without that of so many images, drawn at random; all its parts go together."""
    given = next((part for part in (context.labels, context.vectors, context.maps) if part is not None), None)
    if not share or given is None:
        return context
    drop = torch.rand(len(given)).to(given.device) < share

    def change(part: Tensor) -> Tensor:
        return torch.where(drop.view(-1, *[1] * (part.ndim - 1)), nothing(part), part)

    return context.each(change)


def _loop(
    recipe: Recipe,
    run: Run,
    train_set: ImageSet,
    validation_set: ImageSet,
    output: Path,
    report: Report,
    signals: list[int],
) -> None:
    per_epoch = _steps_per_epoch(recipe, train_set)
    steps = recipe.training.epochs * per_epoch
    saved = time.monotonic()
    for epoch in range(run.step // per_epoch, recipe.training.epochs):
        batches = (
            order(recipe.seed, epoch, len(train_set)).to(train_set.images.device).split(recipe.training.batch_size)
        )
        for batch in batches[run.step - epoch * per_epoch :]:
            began = time.perf_counter()
            nats = step(recipe, run, train_set, batch, steps)
            seconds = time.perf_counter() - began
            run.seconds += seconds
            run.nats += nats * len(batch)
            report(Progress(epoch + 1, run.step, steps, len(batch), nats, len(batch) / seconds))
            ends = run.step == (epoch + 1) * per_epoch
            validates = ends and recipe.training.validates(epoch + 1)
            if validates:
                _validate(recipe, run, epoch + 1, run.nats / len(train_set), validation_set, output)
            if ends:
                run.nats = 0.0
            if validates or signals or time.monotonic() - saved > recipe.training.checkpoint_seconds:
                save_checkpoint(run, output / CHECKPOINT)
                saved = time.monotonic()
            if signals:
                raise Stopped(signals[0])


def _validate(recipe: Recipe, run: Run, epoch: int, train_nats: float, validation_set: ImageSet, output: Path) -> None:
    """A line of metrics, their plot and a grid of samples, all of the averaged weights."""
    result = _evaluate(recipe, run, "validation", validation_set, draws=1)
    line = {
        "epoch": epoch,
        "step": run.step,
        "train_nats": train_nats,
        "validation_nats": result.nats_per_image,
        "validation_std_error": result.nats_std_error,
        "seconds": round(run.seconds, 3),
    }
    with (output / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    plots.save_curves({recipe.name: read_metrics(output)}, output / "metrics.png")
    _preview(run, validation_set, output / "previews" / f"epoch-{epoch:04d}.png")


def _evaluate(recipe: Recipe, run: Run, split: str, data: ImageSet, draws: int) -> Result:
    model, protocol = run.average.module, recipe.data.protocol
    return evaluate(model, data, dataset=recipe.data.name, split=split, protocol=protocol, draws=draws)


def _preview(run: Run, validation_set: ImageSet, path: Path) -> None:
    """A grid of samples: of all classes, or under the conditions of validation images."""
    model = run.average.module
    images, given = prompts(model, validation_set, 100)
    names = pictures.named(given["labels"], validation_set.classes) if given.keys() == {"labels"} else None
    pictures.save_grid(model.sample(images, **given), path, labels=names)


def _publish(
    recipe: Recipe,
    run: Run,
    train_set: ImageSet,
    validation_set: ImageSet,
    test_set: ImageSet,
    output: Path,
    commit: str | None,
) -> dict[str, Any]:
    """Make the run folder a model folder; ``config.json``, written last, completes it."""
    model = run.average.module
    parts = {"validation": validation_set, "test": test_set}
    results = [_evaluate(recipe, run, split, data, DRAWS) for split, data in parts.items()]
    device = next(model.parameters()).device
    config = {
        "name": recipe.name,
        "architecture": recipe.model.name,
        "model_args": recipe.model.arguments,
        "conditional": model.conditional,
        "num_classes": model.num_classes,
        "classes": list(train_set.classes) if model.num_classes is not None else [],
        "vector_size": model.vector_size,
        "map_channels": model.map_channels,
        "dataset": recipe.data.name,
        "data_args": recipe.data.arguments,
        "protocol": recipe.data.protocol,
        "parameters": folder.count_parameters(model),
        "results": [asdict(result) for result in results],
        "training": {
            "epochs": recipe.training.epochs,
            "images_per_second": round(recipe.training.epochs * len(train_set) / run.seconds, 1),
            "seconds": round(run.seconds, 1),
            "seed": recipe.seed,
            "device": device.type,
            "threads": torch.get_num_threads(),
            "precision": str(precision(recipe.training.precision, device)).removeprefix("torch."),
            "zoo": zoo.__version__,
            "commit": commit,
            "torch": torch.__version__,
        },
    }
    _preview(run, validation_set, output / "samples.png")
    write_text(output / "README.md", card(config, dump_recipe(recipe)))
    return folder.save(model, output, config)


def _summary(output: Path, config: dict[str, Any]) -> dict[str, Any]:
    results = {result["split"]: result for result in config["results"]}
    training = config["training"]
    return {
        "run": str(output),
        "epochs": training["epochs"],
        "images_per_second": training["images_per_second"],
        "validation": results["validation"],
        "test": results["test"],
    }


def _commit() -> str | None:
    """The commit of the checkout this package runs from, "-dirty" if it was changed since; None if it is installed."""
    root = Path(zoo.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    describe = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:  # no git here
        return None


def _schedule(step: int, warmup: int, steps: float) -> float:
    """The learning rate's factor: up linearly over the warm-up, down to zero by a half cosine over all steps."""
    return min(1.0, (step + 1) / (warmup + 1)) * (1 + math.cos(math.pi * step / steps)) / 2


def _steps_per_epoch(recipe: Recipe, data: ImageSet) -> int:
    return math.ceil(len(data) / recipe.training.batch_size)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def _forked_rng() -> AbstractContextManager[None]:
    """Leave the caller's random state as it was, on the CPU and on the device in use."""
    return torch.random.fork_rng(devices=[torch.cuda.current_device()] if _device().type == "cuda" else [])


def _peak_bytes() -> int:
    """The most memory this process has held so far: of the GPU if that is in use."""
    if _device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    # Linux counts in kibibytes, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision(wanted: str, device: torch.device) -> torch.dtype:
    """What "auto" means here: bfloat16 where the processor computes in it natively, float32 elsewhere."""
    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if native else torch.float32
