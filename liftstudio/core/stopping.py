"""Requests to stop: SIGINT, SIGTERM, or an event that another thread sets. Work stops at once, or at a safe point."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_cancelled: ContextVar[threading.Event | None] = ContextVar("cancelled", default=None)


class StopRequest:
    """Context in which signals and `cancelled_by` set `requested`; a SIGINT after a signal raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.signalled = False
        self.previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether the work shall stop at its next safe point."""
        return self.signalled or is_cancelled()

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: object) -> None:
        self.signalled = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def cancelled_by(event: threading.Event) -> Iterator[None]:
    """Let `event`, once it is set, stop the work that this thread does inside the block."""
    token = _cancelled.set(event)
    try:
        yield
    finally:
        _cancelled.reset(token)


def is_cancelled() -> bool:
    """Return whether the event that may cancel this thread's work is set."""
    event = _cancelled.get()
    return event is not None and event.is_set()


def stop_if_cancelled() -> None:
    """Raise KeyboardInterrupt if this thread's work is cancelled: called where nothing needs to be saved first."""
    if is_cancelled():
        raise KeyboardInterrupt


@contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt inside the block, as SIGINT does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
