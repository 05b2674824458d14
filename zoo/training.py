"""Train a recipe into a model folder; a killed run goes on where it stopped, bit for bit on the CPU.

Everything random is a function of (seed, epoch, step), so a checkpoint holds weights, their average, Adam's moments
and the step, nothing else.
"""

import difflib
import json
import math
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import zoo
from zoo import folder, pictures
from zoo.card import card
from zoo.causal import Context
from zoo.data import ImageSet, to_grid
from zoo.errors import FailedError, RequestError
from zoo.evaluation import Result, check_fit, evaluate
from zoo.files import writing
from zoo.models import PixelModel
from zoo.recipe import Recipe, dump_recipe
from zoo.registry import DATA, MODELS
from zoo.sampling import share_labels

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


class TrainingError(FailedError):
    """A training that cannot begin or go on."""


class RunError(RequestError):
    """A run folder that this request does not fit."""


class Stopped(Exception):
    """A signal ended the training; the run was saved and can be resumed."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; the run is saved, --resume continues it")
        self.number = number


@dataclass
class Run:
    """A training in progress: what a checkpoint holds.

    Args:
        step: how many were taken.
        nats: summed over the images of this epoch so far.
        seconds: of training so far, interruptions left out.
    """

    model: PixelModel
    average: AveragedModel
    optimizer: torch.optim.Adam
    step: int = 0
    nats: float = 0.0
    seconds: float = 0.0


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

    Minimizes the mean over images of -log p(x), in nats, with Adam; evaluates and publishes the averaged weights.

    Args:
        resume: continue the run in ``output``; begin it if there is none.
        report: called after each step.

    Returns:
        ``run, epochs, images_per_second, validation, test``.

    Raises:
        RunError: ``output`` holds a run already (without ``resume``), another recipe's run, or is in use.
        TrainingError: the loss is no longer finite; the last good checkpoint is kept.
        Stopped: SIGINT or SIGTERM came; the run is saved.
    """
    train_set, validation_set = (DATA.get(recipe.data.name)(split, data_dir) for split in ("train", "validation"))
    run = begin(recipe)
    check_fit(run.model, train_set)
    with _locked(output):
        finished = _check_output(recipe, output, resume)
        if finished:
            return _summary(output, finished)
        (output / "previews").mkdir(exist_ok=True)
        _write(output / "recipe.yaml", dump_recipe(recipe))
        if (output / CHECKPOINT).is_file():
            restore(run, output / CHECKPOINT)
        _trim_metrics(output, run.step // _steps_per_epoch(recipe, train_set))
        with _signals() as signals:
            _loop(recipe, run, train_set, validation_set, output, report, signals)
        test_set = DATA.get(recipe.data.name)("test", data_dir)
        config = _publish(recipe, run, train_set, validation_set, test_set, output)
        (output / CHECKPOINT).unlink(missing_ok=True)
    return _summary(output, config)


def dry_run(recipe: Recipe, data_dir: Path | None = None) -> dict[str, Any]:
    """Build everything, train one batch (twice, to time the second), and tell what the whole training would take."""
    data = DATA.get(recipe.data.name)("train", data_dir)
    run = begin(recipe)
    check_fit(run.model, data)
    batch = torch.arange(min(recipe.training.batch_size, len(data)))
    losses = []
    for _ in range(2):
        began = time.perf_counter()
        losses.append(step(recipe, run, data, batch, math.inf).item())
        seconds = time.perf_counter() - began
    steps = recipe.training.epochs * _steps_per_epoch(recipe, data)
    parameters = folder.count_parameters(run.model)
    return {
        "name": recipe.name,
        "architecture": recipe.model.name,
        "parameters": parameters,
        # Weights, their average, gradients and two moments, float32 each; what the activations take is not in it.
        "state_bytes": parameters * 5 * 4,
        "images": len(data),
        "steps": steps,
        "precision": str(_precision(recipe.training.precision, _device())).removeprefix("torch."),
        "device": _device().type,
        "first_batch_nats": losses[0],
        "estimated_seconds": steps * seconds,
    }


def begin(recipe: Recipe) -> Run:
    """A run at step 0, its weights drawn from the recipe's seed."""
    device = _device()
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = MODELS.build(recipe.model.name, **recipe.model.arguments)
    model = model.to(device, memory_format=torch.channels_last)

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
        weight_decay=settings.weight_decay,
        fused=True,
    )
    return Run(model, averaged, optimizer)


def step(recipe: Recipe, run: Run, data: ImageSet, batch: Tensor, steps: float) -> Tensor:
    """One step of Adam on the images ``batch``; returns their mean nats before it."""
    model, device = run.model, next(run.model.parameters()).device
    # The one source of randomness of a step: nothing needs to be remembered to repeat it.
    torch.manual_seed(_seed(recipe.seed, 1, run.step))
    x = to_grid(data.images[batch].to(device), recipe.data.protocol)
    labels = data.labels[batch].to(device) if model.num_classes is not None else None
    precision = _precision(recipe.training.precision, device)
    autocast = torch.autocast(device.type, precision) if precision != torch.float32 else nullcontext()
    model.train()
    with autocast:
        logits = model(x, Context(labels=labels))
    loss = -model.likelihood.log_prob(logits.float(), x).mean()
    run.optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip or math.inf)
    if not torch.isfinite(loss + norm):
        raise TrainingError(
            f"loss {loss.item()}, gradient norm {norm.item()} in step {run.step}: it was not taken; "
            "lower optimizer.learning_rate, or set training.precision to float32, and --resume from the last checkpoint"
        )
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.optimizer.learning_rate * _schedule(run.step, recipe.optimizer.warmup_steps, steps)
    run.optimizer.step()
    run.step += 1
    run.average.update_parameters(model)
    return loss.detach()


def save_checkpoint(run: Run, path: Path) -> None:
    """Write everything that :func:`restore` needs, whole or not at all."""
    tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in run.average.state_dict().items()}
    for index, parameter in enumerate(run.model.parameters()):
        tensors |= {f"adam.{index}.{name}": tensor for name, tensor in run.optimizer.state[parameter].items()}
    metadata = {"step": str(run.step), "nats": repr(run.nats), "seconds": repr(run.seconds)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with writing(path) as staged:
        save_file(tensors, staged, metadata)


def restore(run: Run, path: Path) -> None:
    """Put a run back to where a checkpoint was written.

    Raises:
        RunError: the file is damaged or of another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        for part, module in (("model.", run.model), ("average.", run.average)):
            module.load_state_dict(
                {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
            )
        for index, parameter in enumerate(run.model.parameters()):
            # Moments in the parameter's own memory format, which fused Adam relies on.
            run.optimizer.state[parameter] = {
                "step": tensors[f"adam.{index}.step"].to(parameter.device),
                "exp_avg": torch.zeros_like(parameter).copy_(tensors[f"adam.{index}.exp_avg"]),
                "exp_avg_sq": torch.zeros_like(parameter).copy_(tensors[f"adam.{index}.exp_avg_sq"]),
            }
        run.step, run.nats, run.seconds = (
            int(metadata["step"]),
            float(metadata["nats"]),
            float(metadata["seconds"]),
        )
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise RunError(f"{path} cannot be resumed from ({error}); remove the folder and train again") from None


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
        generator = torch.Generator().manual_seed(_seed(recipe.seed, 0, epoch))
        batches = torch.randperm(len(train_set), generator=generator).split(recipe.training.batch_size)
        for batch in batches[run.step - epoch * per_epoch :]:
            began = time.perf_counter()
            nats = step(recipe, run, train_set, batch, steps).item()
            seconds = time.perf_counter() - began
            run.seconds += seconds
            run.nats += nats * len(batch)
            report(Progress(epoch + 1, run.step, steps, len(batch), nats, len(batch) / seconds))
            ends = run.step == (epoch + 1) * per_epoch
            if ends:
                _end_epoch(recipe, run, epoch + 1, run.nats / len(train_set), validation_set, output)
                run.nats = 0.0
            if ends or signals or time.monotonic() - saved > recipe.training.checkpoint_seconds:
                save_checkpoint(run, output / CHECKPOINT)
                saved = time.monotonic()
            if signals:
                raise Stopped(signals[0])


def _end_epoch(recipe: Recipe, run: Run, epoch: int, train_nats: float, validation_set: ImageSet, output: Path) -> None:
    """A line of metrics and a grid of samples, both of the averaged weights."""
    result = _evaluate(recipe, run, "validation", validation_set)
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
    _preview(run, output / "previews" / f"epoch-{epoch:04d}.png")


def _evaluate(recipe: Recipe, run: Run, split: str, data: ImageSet) -> Result:
    return evaluate(run.average.module, data, dataset=recipe.data.name, split=split, protocol=recipe.data.protocol)


def _preview(run: Run, path: Path) -> None:
    model = run.average.module
    labels = None if model.num_classes is None else share_labels(range(model.num_classes), 100)
    pictures.save_grid(model.sample(100, labels), path, labels=labels)


def _publish(
    recipe: Recipe, run: Run, train_set: ImageSet, validation_set: ImageSet, test_set: ImageSet, output: Path
) -> dict[str, Any]:
    """Make the run folder a model folder; ``config.json``, written last, completes it."""
    model = run.average.module
    results = [_evaluate(recipe, run, *part) for part in (("validation", validation_set), ("test", test_set))]
    device = next(model.parameters()).device
    config = {
        "name": recipe.name,
        "architecture": recipe.model.name,
        "model_args": recipe.model.arguments,
        "conditional": model.num_classes is not None,
        "dataset": recipe.data.name,
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
            "precision": str(_precision(recipe.training.precision, device)).removeprefix("torch."),
            "zoo": zoo.__version__,
            "commit": _commit(),
            "torch": torch.__version__,
        },
    }
    _preview(run, output / "samples.png")
    _write(output / "README.md", card(config, dump_recipe(recipe)))
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


def _check_output(recipe: Recipe, output: Path, resume: bool) -> dict[str, Any] | None:
    """The config of the finished run in ``output``, None if there is none or it goes on.

    Raises:
        RunError: there is a run and nobody said to resume it, or it is another recipe's.
    """
    if not (output / "recipe.yaml").is_file():
        return None
    if not resume:
        raise RunError(f"{output} already holds a run; --resume continues it, --output names another folder")
    before, now = (output / "recipe.yaml").read_text(encoding="utf-8"), dump_recipe(recipe)
    if before != now:
        changes = difflib.unified_diff(before.splitlines(), now.splitlines(), "the run", "this recipe", "", "", 0, "")
        raise RunError(
            f"{output} was trained with another recipe; --output names another folder\n" + "\n".join(changes)
        )
    return folder.read_config(output) if (output / "config.json").is_file() else None


def _trim_metrics(output: Path, epochs: int) -> None:
    """Drop the lines of epochs that the checkpoint does not know; they will be trained again."""
    if (output / METRICS).is_file():
        lines = (output / METRICS).read_text(encoding="utf-8").splitlines(keepends=True)
        _write(output / METRICS, "".join(lines[:epochs]))


def _write(path: Path, text: str) -> None:
    with writing(path) as staged:
        staged.write_text(text, encoding="utf-8")


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"{output} is in use by another training; --output names another folder") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM, to stop after the step; a second one acts as always."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore_handlers() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def catch(number: int, frame: object) -> None:
        caught.append(number)
        restore_handlers()

    for number in before:
        signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore_handlers()


def _commit() -> str | None:
    """The commit of the checkout this package runs from, or None if it is installed."""
    root = Path(zoo.__file__).parents[1]
    answer = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = answer.stdout.split("\n")
    return lines[1] if answer.returncode == 0 and Path(lines[0]) == root else None


def _schedule(step: int, warmup: int, steps: float) -> float:
    """The learning rate's factor: up linearly over the warm-up, down to zero by a half cosine over all steps."""
    return min(1.0, (step + 1) / (warmup + 1)) * (1 + math.cos(math.pi * step / steps)) / 2


def _steps_per_epoch(recipe: Recipe, data: ImageSet) -> int:
    return math.ceil(len(data) / recipe.training.batch_size)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _precision(wanted: str, device: torch.device) -> torch.dtype:
    """What "auto" means here: bfloat16 where the processor computes in it natively, float32 elsewhere."""
    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if native else torch.float32
