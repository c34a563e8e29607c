"""Queues in the project of the tiny ball, and runs that wait for the test."""

import importlib
import json
from pathlib import Path

from helpers.waiting import wait_until
from liftstudio.studio.queue import ENTRIES, Entry, Queue

WAIT_S = 60
RUNS = Path("runs")
BALL = ("helpers.tiny_prior", "helpers.tiny_system")  # modules with the components of its runs
HELD_AT = 4  # steps that are done then
HELD = {"system.waits_at": HELD_AT}  # options of a run that is not done before `let_go`


def let_go() -> None:
    """Let runs go on that wait."""
    Path("go").touch()


def wait_until_held(queue: Queue, name: str) -> None:
    """Wait until a run with the options HELD waits."""
    wait_until(lambda: queue.progress(name).event.step == HELD_AT)


def stop(queue: Queue, name: str) -> Entry:
    """Stop a run that waits, and return it."""
    queue.stop(name)
    let_go()
    return ended(queue, name, "stopped")


def ended(queue: Queue, name: str, *states: str) -> Entry:
    """Return a job once it is in one of the states; without any: once it is done."""
    assert queue.wait(lambda queue: queue.entry(name).state in (states or ("done",)), WAIT_S), queue.entry(name)
    return queue.entry(name)


def all_ended(queue: Queue, count: int) -> list[Entry]:
    """Return the jobs once there are so many, and all have ended."""
    assert queue.wait(
        lambda queue: len(queue.entries()) == count and not any(entry.is_open for entry in queue.entries()), WAIT_S
    ), queue.entries()
    return queue.entries()


def kept() -> list[Entry]:
    """Return the jobs as their files hold them."""
    return [Entry(**json.loads(path.read_text())) for path in sorted((RUNS / "queue").glob(ENTRIES))]


def held_folder() -> Path:
    """Return the folder of the only run, once it waits in whatever process."""
    wait_until(lambda: list(RUNS.glob("ball/*/checkpoints/step-*.ckpt")))
    return next(RUNS.glob("ball/*"))


def work_off(*tags: str) -> None:
    """Add a job of each tag to the queue, held, and work until all have ended."""
    for module in BALL:
        importlib.import_module(module)
    queue = Queue(RUNS, "cpu")
    for tag in tags:
        queue.submit("ball.yaml", "photo.png", {**HELD, "checkpoint.every": 1, "tag": tag})
    all_ended(queue, len(queue.entries()))
    queue.close()
