"""The queue of jobs: one at a time, each done once, whatever happens to the process."""

import dataclasses
import json
import threading
from pathlib import Path

import pytest
from helpers.processes import Forked
from helpers.queues import HELD, ended, held_folder, kept, let_go, stop, wait_until_held, work_off
from helpers.waiting import wait_until
from PIL import Image

import liftstudio as ls
from liftstudio.studio.queue import Entry, Queue


def mesh_of(entry: Entry) -> bytes:
    return Path(entry.folder, "export/mesh.ply").read_bytes()


def test_jobs_are_done_in_turn_and_a_faulty_one_does_not_stop_the_others(queue: Queue) -> None:
    first = queue.submit("ball.yaml", "photo.png", {"tag": "first"})
    Image.new("RGBA", (64, 64)).save("empty.png")
    faulty = queue.submit("ball.yaml", "empty.png")
    last = queue.submit("ball.yaml", "photo.png", {"tag": "last", "seed": 1}, "views")
    assert queue.ahead(last.name) <= 2
    done = [ended(queue, entry.name, "done", "failed") for entry in (first, faulty, last)]
    assert [entry.state for entry in done] == ["done", "failed", "done"] and queue.ahead(last.name) == 0
    assert done[1].error.startswith("empty.png: no foreground") and not done[1].folder
    assert [entry.folder for entry in (done[0], done[2])] == ["runs/ball/first", "runs/ball/last"]
    assert mesh_of(done[0]) and done[2].result().views and not done[2].result().files
    progress = queue.progress(first.name)
    assert progress.image is not None and [step for step, _ in progress.losses["second/loss"]] == [1, 2, 3, 4, 5, 6]
    assert any("run folder" in text for text in progress.said) and progress.event.stage == "export"
    assert sorted(path.name for path in Path("runs/ball").iterdir()) == ["first", "last"], "each is done once"


def test_a_bad_option_is_refused_at_once(queue: Queue) -> None:
    with pytest.raises(ls.InputError, match="did you mean 'seed'"):
        queue.submit("ball.yaml", "photo.png", {"sede": 1})
    for picture, options, message in (
        ("no.png", {}, "no.png: no such image"),
        ("photo.png", {"views.image_box": [9, 9, 1, 1]}, "expected left < right"),
        ("photo.png", {"prior.weights": "no.safetensors"}, "no.safetensors: no such file"),
        (None, {}, "image: missing"),
    ):
        with pytest.raises(ls.InputError, match=message):
            queue.submit("ball.yaml", picture, options)
    with pytest.raises(ls.InputError, match="there is no job 'x'"):
        queue.stop("x")
    assert queue.entries() == []


def test_a_stopped_job_goes_on(queue: Queue) -> None:
    whole = ended(queue, queue.submit("ball.yaml", "photo.png", {"tag": "whole"}).name)
    stopped, waiting = (queue.submit("ball.yaml", "photo.png", {**HELD, "tag": tag}) for tag in ("stopped", "waiting"))
    queue.stop(waiting.name)
    assert queue.entry(waiting.name).state == "stopped"
    wait_until_held(queue, stopped.name)
    with pytest.raises(ls.InputError, match="in the queue already"):
        queue.resume(stopped.name)
    assert stop(queue, stopped.name).folder == "runs/ball/stopped"
    assert list(Path("runs/ball/stopped/checkpoints").glob("step-*-first.ckpt"))
    queue.resume(stopped.name)
    assert mesh_of(ended(queue, stopped.name)) == mesh_of(whole)


def test_views_go_on_to_a_mesh(queue: Queue) -> None:
    entry = ended(queue, queue.submit("ball.yaml", "photo.png", {"tag": "a"}, "views").name)
    assert not list(Path(entry.folder).glob("export/*"))
    queue.resume(entry.name)
    assert mesh_of(ended(queue, entry.name)) and queue.entry(entry.name).folder == entry.folder


def test_a_closed_queue_is_continued(ball_project: Path) -> None:
    queue = Queue(Path("runs"), "cpu")
    first, second = (queue.submit("ball.yaml", "photo.png", {**HELD, "tag": tag}) for tag in ("first", "second"))
    wait_until_held(queue, first.name)
    with pytest.raises(ls.InputError, match=r"runs/queue: process \d+ writes there"):
        Queue(Path("runs"), "cpu")
    threading.Timer(0.1, let_go).start()
    queue.close()
    Path("runs/queue/damaged.json").write_text("{")
    again = Queue(Path("runs"), "cpu")
    try:
        assert [entry.name for entry in again.entries()] == [first.name, second.name]
        meshes = {mesh_of(ended(again, entry.name)) for entry in (first, second)}
        assert len(meshes) == 1 and len(list(Path("runs/ball").iterdir())) == 2
    finally:
        again.close()


def test_a_killed_process_loses_nothing(ball_project: Path) -> None:
    process = Forked(work_off, "first", "second")
    held_folder()
    wait_until(lambda: len(kept()) == 2)  # the first may be held before the second is submitted
    process.kill()
    assert [entry.state for entry in kept()] == ["running", "waiting"]
    let_go()
    assert Forked(work_off).exit_code() == 0
    entries = kept()
    assert [entry.state for entry in entries] == ["done", "done"] and entries[0].mode == "resume"
    assert mesh_of(entries[0]) == mesh_of(entries[1]) and len(list(Path("runs/ball").iterdir())) == 2


def test_entries_are_plain_data() -> None:
    entry = Entry("a", "ball.yaml", {"seed": 1}, "train", submitted=1.5)
    assert Entry(**json.loads(json.dumps(dataclasses.asdict(entry)))) == entry and entry.result() is None
