"""What long work tells its listener while it goes on; there is one listener at most for each thread of work."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

Listener = Callable[["WorkStep | StageStep"], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@dataclass(frozen=True)
class WorkStep:
    """A part of work outside the stages has begun: sampling of views, export.

    title:    the work: "views", "export", "test".
    step:     what is being done now, in words.
    fraction: how much of the work is done, 0 to 1.
    """

    title: str
    step: str
    fraction: float


@dataclass(frozen=True)
class StageStep:
    """An optimisation step is done.

    step:    number of steps done in this stage, of `total`.
    losses:  of this step, by name; `loss` is their sum.
    seconds: per step, a moving average.
    run:     the `Run`, to look at or to change between two steps.
    """

    stage: str
    step: int
    total: int
    losses: dict[str, float]
    seconds: float
    run: Any

    @property
    def seconds_left(self) -> float:
        """How long the rest of the stage will take."""
        return self.seconds * (self.total - self.step)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` with every event of work that this thread does inside the block; it may raise to end the work."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(event: WorkStep | StageStep) -> None:
    """Call this thread's listener, if there is one."""
    listener = _listener.get()
    if listener is not None:
        listener(event)
