"""The queue of jobs: one at a time, each done once, whatever happens to the process."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import ROOT

import liftstudio as ls
from liftstudio.studio.queue import Entry, Queue

SLOW = {"system.seconds": 0.1}
WAIT_S = 60


@pytest.fixture
def queue(ball_project: Path) -> Iterator[Queue]:
    opened = Queue(Path("runs"), "cpu", preview_every_s=0.0)
    yield opened
    opened.close()


def wait(queue: Queue, entry: Entry, *states: str) -> Entry:
    assert queue.wait(lambda queue: queue.entry(entry.name).state in states, WAIT_S), queue.entry(entry.name)
    return queue.entry(entry.name)


def wait_for_step(queue: Queue, entry: Entry) -> None:
    until = time.time() + WAIT_S
    while queue.progress(entry.name).event.step < 2:
        assert time.time() < until
        time.sleep(0.01)


def mesh_of(entry: Entry) -> bytes:
    return Path(entry.folder, "export/mesh.ply").read_bytes()


def test_jobs_are_done_in_turn_and_a_faulty_one_does_not_stop_the_others(queue: Queue) -> None:
    first = queue.submit("ball.yaml", "photo.png", {"tag": "first"})
    faulty = queue.submit("ball.yaml", "no.png")
    last = queue.submit("ball.yaml", "photo.png", {"tag": "last", "seed": 1}, "views")
    assert queue.ahead(last.name) <= 2
    done = [wait(queue, entry, "done", "failed") for entry in (first, faulty, last)]
    assert [entry.state for entry in done] == ["done", "failed", "done"] and queue.ahead(last.name) == 0
    assert done[1].error == "no.png: no such image" and not done[1].folder
    assert [entry.folder for entry in (done[0], done[2])] == ["runs/ball/first", "runs/ball/last"]
    assert mesh_of(done[0]) and done[2].result().views and not done[2].result().files
    progress = queue.progress(first.name)
    assert progress.image is not None and [step for step, _ in progress.losses["second/loss"]] == [1, 2, 3, 4, 5, 6]
    assert any("run folder" in text for text in progress.said) and progress.event.stage == "export"
    assert sorted(path.name for path in Path("runs/ball").iterdir()) == ["first", "last"], "each is done once"


def test_a_bad_option_is_refused_at_once(queue: Queue) -> None:
    with pytest.raises(ls.InputError, match="did you mean 'seed'"):
        queue.submit("ball.yaml", "photo.png", {"sede": 1})
    with pytest.raises(ls.InputError, match="there is no job 'x'"):
        queue.stop("x")
    assert queue.entries() == []


def test_a_stopped_job_goes_on(queue: Queue) -> None:
    whole = wait(queue, queue.submit("ball.yaml", "photo.png", {**SLOW, "tag": "whole"}), "done")
    stopped, waiting = (queue.submit("ball.yaml", "photo.png", {**SLOW, "tag": tag}) for tag in ("stopped", "waiting"))
    queue.stop(waiting.name)
    assert queue.entry(waiting.name).state == "stopped"
    wait_for_step(queue, stopped)
    with pytest.raises(ls.InputError, match="in the queue already"):
        queue.resume(stopped.name)
    queue.stop(stopped.name)
    assert wait(queue, stopped, "stopped").folder == "runs/ball/stopped"
    assert list(Path("runs/ball/stopped/checkpoints").glob("step-*-first.ckpt"))
    queue.resume(stopped.name)
    assert mesh_of(wait(queue, stopped, "done")) == mesh_of(whole)


def test_views_go_on_to_a_mesh(queue: Queue) -> None:
    entry = wait(queue, queue.submit("ball.yaml", "photo.png", {"tag": "a"}, "views"), "done")
    assert not list(Path(entry.folder).glob("export/*"))
    queue.resume(entry.name)
    assert mesh_of(wait(queue, entry, "done")) and queue.entry(entry.name).folder == entry.folder


def test_a_closed_queue_is_continued(ball_project: Path) -> None:
    queue = Queue(Path("runs"), "cpu")
    first, second = (queue.submit("ball.yaml", "photo.png", {**SLOW, "tag": tag}) for tag in ("first", "second"))
    wait_for_step(queue, first)
    with pytest.raises(ls.InputError, match=r"runs/queue: process \d+ writes there"):
        Queue(Path("runs"), "cpu")
    queue.close()
    Path("runs/queue/damaged.json").write_text("{")
    again = Queue(Path("runs"), "cpu")
    try:
        assert [entry.name for entry in again.entries()] == [first.name, second.name]
        meshes = {mesh_of(wait(again, entry, "done")) for entry in (first, second)}
        assert len(meshes) == 1 and len(list(Path("runs/ball").iterdir())) == 2
    finally:
        again.close()


SERVER = """
    import sys, time
    from pathlib import Path
    from helpers import tiny_prior, tiny_system
    from liftstudio.studio.queue import Queue
    queue = Queue(Path("runs"), "cpu")
    for tag in sys.argv[1:]:
        queue.submit("ball.yaml", "photo.png", {"tag": tag, "system.seconds": 0.1})
    while any(entry.is_open for entry in queue.entries()):
        time.sleep(0.05)
"""


def test_a_killed_process_loses_nothing(ball_project: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    serve = [sys.executable, "-c", textwrap.dedent(SERVER)]
    process = subprocess.Popen([*serve, "first", "second"], env=environment)
    until = time.time() + WAIT_S
    while not list(Path("runs/ball").glob("*/log.csv")):
        assert time.time() < until and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    states = [json.loads(path.read_text())["state"] for path in sorted(Path("runs/queue").glob("*.json"))]
    assert states == ["running", "waiting"]
    subprocess.run(serve, env=environment, check=True, timeout=WAIT_S)
    entries = [Entry(**json.loads(path.read_text())) for path in sorted(Path("runs/queue").glob("*.json"))]
    assert [entry.state for entry in entries] == ["done", "done"] and entries[0].mode == "resume"
    assert mesh_of(entries[0]) == mesh_of(entries[1]) and len(list(Path("runs/ball").iterdir())) == 2


def test_entries_are_plain_data() -> None:
    entry = Entry("a", "ball.yaml", {"seed": 1}, "train", submitted=1.5)
    assert Entry(**json.loads(json.dumps(dataclasses.asdict(entry)))) == entry and entry.result() is None
