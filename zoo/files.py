"""Files appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STAGED = ".staged-"


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to, which takes its place when all went well and is removed otherwise.

    Raises:
        OSError: the folder is missing or cannot be written.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with writing(Path(folder, "a.txt")) as staged:
        ...         _ = staged.write_text("whole")
        ...     [file.name for file in Path(folder).iterdir()]
        ['a.txt']
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=STAGED, suffix=path.suffix)
    os.close(handle)
    staged = Path(name)
    try:
        yield staged
        # mkstemp makes files that only their owner can read; a result is for everybody the umask lets.
        umask = os.umask(0)
        os.umask(umask)
        staged.chmod(0o666 & ~umask)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with writing(path) as staged:
        staged.write_text(text, encoding="utf-8")


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for path in folder.glob(f"{STAGED}*"):
        path.unlink(missing_ok=True)


def save_tensors(tensors: "Mapping[str, Tensor]", path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all; tied and strided tensors are written out as plain copies."""
    import torch
    from safetensors.torch import save_file

    plain = torch.contiguous_format
    copies = {name: tensor.detach().cpu().clone(memory_format=plain) for name, tensor in tensors.items()}
    with writing(path) as staged:
        save_file(copies, staged, metadata)
