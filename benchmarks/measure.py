"""Timing of several sides in turn, and the memory that each of them takes in a process of its own."""

import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any


def alternate(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each side, measured in turn so that a drift of the machine's speed meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def peak_bytes(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> int:
    """By how much ``prepare(*arguments)()`` lets the memory of a fresh process grow, at its peak.

    What the libraries take when they are imported is not counted.
    """
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (prepare, arguments))


def _growth(prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> int:
    before = _peak()
    prepare(*arguments)()
    return _peak() - before


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose ru_maxrss a child takes over from its parent
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
