"""Checkpoints: safetensors that appear whole or not at all, no pickle."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch.optim.swa_utils import AveragedModel

from zoo.errors import FailedError
from zoo.files import save_tensors
from zoo.models import PixelModel


@dataclass
class Run:
    """A training in progress: all that a checkpoint holds.

    Args:
        data: the digest of the images it is trained on.
        step: how many were taken.
        nats: summed over the images of this epoch so far.
        seconds: of training so far, interruptions left out.
    """

    model: PixelModel
    average: AveragedModel
    optimizer: torch.optim.Adam
    data: str = ""
    step: int = 0
    nats: float = 0.0
    seconds: float = 0.0


def save_checkpoint(run: Run, path: Path) -> None:
    """Write everything that :func:`restore` needs, whole or not at all."""
    tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in run.average.state_dict().items()}
    for index, parameter in enumerate(run.model.parameters()):
        tensors |= {f"adam.{index}.{name}": tensor for name, tensor in run.optimizer.state[parameter].items()}
    metadata = {"data": run.data, "step": str(run.step), "nats": repr(run.nats), "seconds": repr(run.seconds)}
    save_tensors(tensors, path, metadata)


def restore(run: Run, path: Path) -> None:
    """Put a run back to where a checkpoint was written.

    Raises:
        FailedError: the file is damaged, or of another model or other data.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        if metadata.get("data") != run.data:
            raise ValueError("the training images are not those that it began with")
        for part, module in (("model.", run.model), ("average.", run.average)):
            module.load_state_dict(
                {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
            )
        for index, parameter in enumerate(run.model.parameters()):
            if f"adam.{index}.step" not in tensors:
                continue  # it never had a gradient
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
        raise FailedError(f"{path} cannot be resumed from ({error}); remove it and train again") from None
