"""The live viewer: what browsers are shown, what they can change, and that looking changes nothing."""

import copy
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers.browser import browser, console_errors  # noqa: F401  a fixture
from helpers.tiny_project import write_capture
from helpers.tiny_stages import stage
from helpers.viewer_client import Client
from helpers.waiting import wait_until

from liftstudio.cli.command_line import main
from liftstudio.core.checkpoints import Checkpoints
from liftstudio.core.events import StageStep, WorkStep, listening
from liftstudio.data.cameras import orbit_cameras
from liftstudio.run.snapshots import PICTURES
from liftstudio.studio.viewer.cameras import Eye, add_frusta
from liftstudio.studio.viewer.following import Follower, open_run
from liftstudio.studio.viewer.history import Log
from liftstudio.studio.viewer.live import Live
from liftstudio.studio.viewer.painting import HEIGHTS, Painter
from liftstudio.studio.viewer.panel import time_left
from liftstudio.studio.viewer.window import Window
from liftstudio.systems.base import System

PORT = 18080  # the first that is tried
CONFIG = {
    "views": {"type": "posed-images", "path": "capture", "held_out": []},
    "system": {"type": "coarse-to-fine", "stages": {"one": stage("instant-ngp", 5), "two": stage("dmtet", 4)}},
    "test": {"frames": 1, "size": 16, "stills": 0},
    "log": {"every": 1, "images_every": 2, "tensorboard": False},
    "checkpoint": {"every": 2},
    "export": {"formats": ["ply"], "texture_size": 64},
    "device": "cpu",
}


@pytest.fixture
def place(here: Path) -> Path:
    """A folder with a capture and the config of two quick stages."""
    write_capture(here / "capture", size=24)
    config = copy.deepcopy(CONFIG)
    config["system"]["stages"]["two"]["geometry"]["from"] = "one"
    (here / "two.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return here


@pytest.fixture
def window() -> Iterator[Window]:
    opened = Window("127.0.0.1", PORT, steerable=True)
    yield opened
    opened.close()


def train(tag: str, *options: str) -> Path:
    assert main(["--config", "two.yaml", "--train", f"tag={tag}", *options]) == 0
    return Path("runs/two") / tag


def exported(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "export").iterdir()}


def test_looking_changes_nothing(place: Path, window: Window) -> None:
    plain = train("plain")
    live, scenes = Live(window), set[tuple[str, int]]()
    window.panel.asked.value = True

    def look(event: WorkStep | StageStep) -> None:
        if isinstance(event, StageStep):
            client.look(0.01 * event.step)
            client.use(window.panel.picture, PICTURES[event.step % len(PICTURES)])
            live.status.last = live.session.refresh.last = live.session.painter.ended = 0.0  # all is due
        live.hear(event)
        scenes.update(shown.scene for shown in live.session.painter.shown.values())

    with Client(window.server) as client, listening(look):
        folder = train("seen")
        wait_until(lambda: client.pictures >= 1)
    assert not live.has_failed and len(scenes) >= 5
    assert exported(folder) == exported(plain)
    assert not (folder / "edits.json").exists()


def test_nothing_is_rendered_while_nobody_looks(place: Path, window: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train("a", "log.images_every=0", "checkpoint.every=1000")
    monkeypatch.setattr(Painter, "paint", lambda *_: pytest.fail("rendered"))
    live = Live(window)
    live.hear(StageStep("two", 1, 4, {}, 0.1, SimpleNamespace(folder=folder)))
    assert not live.has_failed


def test_pause_edit_and_resume(place: Path, window: Window, caplog: pytest.LogCaptureFixture) -> None:
    panel, ended = window.panel, threading.Event()

    def steer(client: Client) -> None:
        wait_until(lambda: panel.values and not panel.apply.disabled)
        client.use(panel.option, "guidance.views.lambda_rgb")
        wait_until(lambda: panel.value.value == "1.0")
        for text, answer in (("fast", "**Not changed:** expected a number"), ("[[0, 2], [9, 3]]", "Changed.")):
            client.use(panel.value, text)
            client.use(panel.apply)
            wait_until(lambda answer=answer: panel.answer.content.startswith(answer))
        before = client.pictures
        client.look(0.5)
        wait_until(lambda: client.pictures > before)  # also while the run waits
        client.use(panel.pause)
        ended.set()

    with Client(window.server) as client, listening(Live(window).hear):
        client.use(panel.pause)
        wait_until(lambda: panel.is_paused)
        steering = threading.Thread(target=steer, args=[client])
        steering.start()
        folder = train("a")
        steering.join()
    assert ended.is_set()
    made = json.loads((folder / "edits.json").read_text())
    assert made == [
        {"stage": "one", "step": 1, "option": "guidance.views.lambda_rgb", "value": [[0, 2], [9, 3]]},
    ]
    assert "lambda_rgb = [[0.0, 2.0], [9.0, 3.0]]" in panel.made.content
    assert panel.pause.label == "Pause" and len(panel.paths) >= 2
    assert {"loss", "views/rgb"} <= set(panel.loss.options) and len(panel.curve.data[0]) >= 2


def test_a_paused_run_can_be_stopped(place: Path, window: Window) -> None:
    window.panel.is_paused = True
    live = Live(window)

    def stop(event: StageStep) -> None:
        event.run.stop.signalled = True
        live.hear(event)

    with listening(lambda event: stop(event) if isinstance(event, StageStep) else None):
        assert main(["--config", "two.yaml", "--train", "tag=a"]) == 3
    assert list(Path("runs/two/a/checkpoints").glob("step-*-one.ckpt"))


def test_a_fault_of_the_viewer_does_not_end_the_run(place: Path, window: Window) -> None:
    live = Live(window)
    live.session.show = lambda *_, **__: 1 / 0  # type: ignore[method-assign]
    with listening(live.hear):
        train("a", "log.images_every=0")
    assert live.has_failed


def test_view_shows_the_newest_checkpoint(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train("a")
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    newest = Checkpoints(folder / "checkpoints").paths()[0]
    hidden = newest.with_suffix(".later")
    newest.rename(hidden)
    window = Window("127.0.0.1", PORT, steerable=False)
    follower = Follower(window, open_run(folder))
    assert not follower.update() and follower.run.saved is None  # nobody looks
    with Client(window.server) as client:
        wait_until(lambda: not follower.update())
        assert "**two** step 2 of 4" in window.panel.status.content
        wait_until(lambda: client.pictures >= 1)
        hidden.rename(newest)
        follower.look.last = 0.0
        wait_until(lambda: not follower.update())
        assert "**two** step 4 of 4" in window.panel.status.content
        for name in PICTURES[1:]:
            before = client.pictures
            client.use(window.panel.picture, name)
            wait_until(lambda name=name: window.panel.picture.value == name)
            follower.update()
            wait_until(lambda before=before: client.pictures > before)
    window.close()
    assert not follower.session.failure
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == files | {
        folder / "checkpoints": (folder / "checkpoints").stat().st_mtime_ns
    }


def test_bad_input(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    train_viewer = ["--config", "two.yaml", "--train", "--viewer"]
    assert main(["--config", "two.yaml", "--views", "tag=v"]) == 0
    capsys.readouterr()
    for words, message in (
        (["--config", "two.yaml", "--views", "--viewer"], "--viewer needs --train or --resume"),
        ([*train_viewer, "--gpu", "0,1"], "--viewer needs a single device"),
        ([*train_viewer, "--viewer-port", "70000"], "expected a port from 1 to 65535, got 70000"),
        ([*train_viewer, "--viewer-host", "192.0.2.1"], "this machine has no address 192.0.2.1"),
        (["view", "nowhere"], "nowhere: expected the config.yaml of a run folder"),
        (["view", "runs/two/v"], "the run has no checkpoint yet; continue it with --resume"),
    ):
        assert main(words) == 2
        errors = capsys.readouterr().err
        assert message in errors and len(errors.splitlines()) == 1
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for words in (train_viewer, ["view", "runs/two/v"]):
        assert main(words) == 2
        assert "the viewer needs viser: pip install 'liftstudio[viewer]'" in capsys.readouterr().err
    assert [path.name for path in Path("runs/two").iterdir()] == ["v"]


def test_it_listens_to_this_machine_alone(window: Window) -> None:
    other = Window("127.0.0.1", window.server.get_port(), steerable=False)  # that port is taken
    assert window.address.startswith("http://127.0.0.1:") and other.address != window.address
    assert other.server.request_share_url() is None
    other.close()


def test_cameras_are_the_browsers(window: Window) -> None:
    """A camera that is shown as a frustum, and looked through, is the same again."""
    cameras = orbit_cameras(torch.tensor([30.0]), torch.tensor([20.0]), 3.0, 40.0, 64, 96)
    frustum = add_frusta(window.server.scene, "/test", cameras, None, (0, 0, 0))[0]
    pose = tuple(frustum.wxyz), tuple(frustum.position)
    seen = Eye(*pose, frustum.fov, frustum.aspect, 64).cameras(64)
    points = torch.rand(10, 3) - 0.5
    assert seen.width == 96 and torch.allclose(seen.project(points)[0], cameras.project(points)[0], atol=1e-3)


def test_pictures_become_finer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, cost = SimpleNamespace(now=100.0), 4e-6  # seconds per pixel
    monkeypatch.setattr("liftstudio.studio.viewer.painting.time.perf_counter", lambda: clock.now)
    heights = list[int]()

    class Plain(System):
        def render(self, cameras, passes=frozenset()):  # type: ignore[no-untyped-def]
            heights.append(cameras.height)
            clock.now += 0.02 + cost * cameras.height * cameras.width
            raster = torch.zeros(1, cameras.height, cameras.width, 1)
            from liftstudio.data.render import Render

            return Render(raster.expand(-1, -1, -1, 3), raster.expand(-1, -1, -1, 3), raster, depth=raster)

    Plain.__abstractmethods__ = frozenset()
    camera = SimpleNamespace(
        wxyz=(1.0, 0, 0, 0), position=(0.0, 0, 3), fov=0.7, aspect=1.0, image_height=400, image_width=400
    )
    scene = SimpleNamespace(set_background_image=lambda *_, **__: None)
    clients = {3: SimpleNamespace(client_id=3, camera=camera, scene=scene)}
    painter, system = Painter(), Plain()

    def paint(step: int, patience: float = 0.0, name: str = "rgb") -> bool:
        return painter.paint(system, ("a", step), clients, name, patience)  # type: ignore[arg-type]

    while paint(1):
        pass
    assert heights == [72, 72, 144, 288, 576]  # the first compiles; 576 is the first that fills the window
    camera.position = (0.0, 0.1, 3)  # it moves: coarse again
    assert paint(1) and heights[-1] == HEIGHTS[0]
    while paint(1):
        pass
    assert paint(2) and heights[-1] == 576  # a new state of the scene: as fine as before
    count, began = len(heights), clock.now
    assert paint(3, patience=4.0) and len(heights) == count  # too early
    clock.now += 4 * painter.seconds[576]
    paint(3, patience=4.0)
    assert len(heights) == count + 1 and clock.now > began
    cost = 5e-5
    camera.position = (0.0, 0.2, 3)
    painter.seconds = {}
    heights.clear()
    while paint(3):
        pass
    assert heights == [72, 144]  # a finer one would take longer than two seconds


def test_log_and_times(tmp_path: Path) -> None:
    assert Log.read(tmp_path / "none.csv").losses() == () and time_left(float("nan")) == ""
    rows = "".join(f"{i},one,{i},{1 / i},0.5\n" for i in range(1, 2501))
    (tmp_path / "log.csv").write_text(f"total_step,stage,step,loss,seconds_per_step\n{rows}2501,one,2501")
    log = Log.read(tmp_path / "log.csv")
    steps, values = log.curve("loss")
    assert len(log.rows) == 2500 and len(steps) <= 1000 and steps[0] == values[0] == 1
    assert time_left(log.seconds_left("one", 2500, 2620)) == ", about 60 s left"
    assert [time_left(seconds) for seconds in (300, 7200)] == [", about 5 min left", ", about 2.0 h left"]
    assert log.curve("other")[0].shape == (0,)


def test_in_a_browser(place: Path, browser, window: Window) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    """Pause a run, see it, let it go on."""
    from selenium.webdriver.common.by import By

    failed = list[BaseException]()

    def steer() -> None:
        try:
            browser.get(window.address)
            for label in ("Pause", "Resume"):
                path = f"//button[normalize-space(.)='{label}']"
                wait_until(lambda path=path: browser.find_elements(By.XPATH, path))
                browser.find_element(By.XPATH, path).click()
            wait_until(lambda: not window.panel.is_paused)
        except BaseException as error:
            failed.append(error)
            window.panel.is_paused = False

    live = Live(window)
    window.panel.is_paused, window.panel.pause.label = False, "Pause"
    steering = threading.Thread(target=steer)
    steering.start()
    wait_until(lambda: window.panel.is_paused or failed)
    with listening(live.hear):
        train("a")
    steering.join()
    assert not failed and not live.has_failed
    assert "two" in window.panel.status.content or "export" in window.panel.status.content
    assert not [entry for entry in console_errors(browser) if "THREE.Clock" not in entry]
