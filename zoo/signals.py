"""Ctrl-C and SIGTERM end a training after its step, with everything saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """A signal ended the training; the run was saved and can be resumed."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; the run is saved, --resume continues it")
        self.number = number


@contextmanager
def collected_signals() -> Iterator[list[int]]:
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
