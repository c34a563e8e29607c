"""What the page does, without a browser: uploads, orders, history, cut-outs, and the HTML that it shows."""

import io
import json
import math
import os
import re
import shutil
import socket
import struct
import sys
import time
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.queues import HELD_AT, RUNS, ended, let_go, wait_until_held
from PIL import Image

import liftstudio as ls
from liftstudio.cli.command_line import main
from liftstudio.studio.queue import Progress, Queue

pytest.importorskip("gradio", reason="the page needs gradio")

from liftstudio.core.locking import exclusive
from liftstudio.core.logs import duration
from liftstudio.data.images import load_image
from liftstudio.run.folder import RunFolder
from liftstudio.studio.app import fragments, history, run_files, uploads
from liftstudio.studio.app.cut_outs import cut_out, painted, reduced, under_brush
from liftstudio.studio.app.methods import method, method_names
from liftstudio.studio.app.orders import Order, box_of, options_of, order_of, submit
from liftstudio.studio.app.page import Page

INPUTS = RUNS / "inputs"


@pytest.fixture(scope="module")
def laid_out() -> Page:
    """A page without a queue: gradio takes its time for the layout."""
    return Page(SimpleNamespace(runs_dir=RUNS))  # type: ignore[arg-type]


@pytest.fixture
def page(queue: Queue, laid_out: Page, monkeypatch: pytest.MonkeyPatch) -> Page:
    scratch = Path("runs/uploads").absolute()
    scratch.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(scratch))
    laid_out.queue = queue
    return laid_out


def sent(name: str, content: bytes | None = None) -> dict[str, Any]:
    """A file as gradio keeps an upload, and as a component names it."""
    path = Path("runs/uploads/x").absolute() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(Path(name).read_bytes() if content is None else content)
    return {"path": str(path)}


def shown(page: Page, payload: dict[str, Any]) -> dict[Any, Any]:
    """What an upload gives to the components: the picture, then its object."""
    taken = page.take(payload)
    return {**taken, **page.show_object(taken[page.picture], None, "")}


def png(width: int, height: int) -> bytes:
    """The head of a PNG that claims a size, and no pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 1000) + b"IDAT" + bytes(1000)


def strip(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def capture_files() -> dict[str, bytes]:
    return {p.relative_to("capture").as_posix(): p.read_bytes() for p in Path("capture").rglob("*") if p.is_file()}


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
HOSTILE = {
    "svg": ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", "found an SVG drawing"),
    "svg-as-png": ("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    "page-as-png": ("a.png", b"<!doctype html><script>alert(1)</script>", "an HTML page"),
    "empty": ("a.png", b"", "a.png: the image file is empty"),
    "text": ("a.txt", b"hello", "a.txt: not a readable image (unknown or damaged format)"),
    "only-a-suffix": (".png", b"hello", ".png: not a readable image"),
    "postscript": (
        "a.png",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "in the format EPS; expected PNG",
    ),
    "archive": ("a.png", zipped({"a": b"b"}), "zip archive"),
    "many-pixels": ("a.png", png(60000, 60000), "pixels"),
    "cut-off": ("a.png", strip(64, 64)[:60], "a.png"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_picture_is_refused_in_one_line(page: Page, case: str) -> None:
    name, content, message = HOSTILE[case]
    update = page.take(sent(name, content))
    said = update[page.problem]
    assert message in said and "ls-error" in said and "\n" not in said and str(Path.cwd()) not in said
    assert update[page.picture] is None and update[page.upload] is None and update[page.cut_box] == ""
    kept = {path.parts[1] for path in Path("runs").rglob("*.png")} - {"uploads"}  # gradio's own are deleted later
    assert not INPUTS.exists() and not kept


def test_a_picture_without_an_object_is_kept_for_the_brush(page: Page) -> None:
    update = shown(page, sent("a.png", strip(10000, 10)))
    assert "ls-error" in update[page.problem] and str(Path.cwd()) not in update[page.problem]
    fields = (None, update[page.framed], None, "ball.yaml", "", "", 10.0, False, 0, "", None, None, None)
    with pytest.raises(ls.InputError, match="the object is not cut out yet"):
        page.start("train", update[page.picture], *fields)
    assert update[page.picture].parent == INPUTS and update[page.upload].size == (900, 1)


def test_a_picture_is_kept_under_another_name(page: Page) -> None:
    update = shown(page, sent("photo.png"))
    kept = update[page.picture]
    assert kept.parent == INPUTS and len(kept.stem) == 32 and kept.read_bytes() == Path("photo.png").read_bytes()
    assert update[page.problem] == ""
    assert "°" in update[page.cut_box] and "data:image/png" in update[page.cut_box]
    assert -89 <= update[page.elevation] <= 89
    assert page.take(None)[page.problem], "an event without a file"


def test_large_files_are_refused(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_BYTES", 100)
    assert "photo.png: larger than" in page.take(sent("photo.png"))[page.problem]


def test_a_box_says_where_the_object_is(page: Page) -> None:
    picture = page.take(sent("photo.png"))[page.picture]
    assert page.show_object(picture, None, "30, 20, 150, 140")[page.problem] == ""
    beyond = page.show_object(picture, None, "[0 0 9999 50]")[page.problem]
    assert "box: [0, 0, 9999, 50] reaches beyond the picture" in beyond and "image_box" not in beyond
    for wrong in ("<b>", 5, [1], {"a": 1}, True):
        said = page.show_object(picture, None, wrong)[page.problem]
        assert "expected four whole numbers" in said and "<b>" not in said
    assert box_of(" [1,2, 3 4] ") == (1, 2, 3, 4) and box_of(" ") is None and box_of(None) is None


def test_the_brush_corrects_the_cut_out(queue: Queue) -> None:
    before = cut_out(Path("photo.png"))
    kept = uploads.keep_pixels(before.rgb, before.alpha, INPUTS)
    height, width = before.alpha.shape[:2]
    layer = torch.zeros(height, width, 4)
    layer[:40, :40] = torch.tensor([0.09, 0.64, 0.29, 1.0])  # green in the corner, where nothing is
    layer[height // 2 - 9 : height // 2 + 9, width // 2 - 9 : width // 2 + 9] = torch.tensor([0.86, 0.15, 0.15, 1.0])
    rgb, alpha = painted(Path("photo.png"), kept, layer)
    assert (
        alpha[:38, :38].min() == 1
        and alpha[height // 2, width // 2] == 0
        and before.alpha[height // 2, width // 2] == 1
    )
    original, _ = load_image("photo.png")
    assert torch.allclose(rgb[:38, :38], original[:38, :38], atol=0.01)
    alone = painted(Path("photo.png"), None, layer)[1]
    assert alone.sum() == pytest.approx(1600, abs=90)
    with pytest.raises(ls.InputError, match="paint first"):
        painted(Path("photo.png"), kept, torch.zeros(8, 8, 4))
    assert under_brush(Path("photo.png"), before.alpha).size == (width, height) == reduced(Path("photo.png")).size


def test_the_corrected_picture_becomes_the_input(page: Page) -> None:
    picture = page.take(sent("photo.png"))[page.picture]
    opened = page.edit(picture, None, "")
    assert opened[page.cut].parent == INPUTS and opened[page.editor]["background"].size == (197, 160)
    buffer = io.BytesIO()
    stroke = np.zeros((160, 197, 4), np.uint8)
    stroke[70:90, 70:90] = (220, 38, 38, 255)
    Image.fromarray(stroke).save(buffer, "PNG")

    update = page.paint(picture, opened[page.cut], {"layers": [sent("layer.png", buffer.getvalue())]})
    assert update[page.problem] == "" and load_image(update[page.corrected])[1][80, 80] == 0
    for nothing in (None, {}, {"layers": []}, {"layers": [None]}):
        with pytest.raises(ls.InputError, match="paint first"):
            page.paint(picture, opened[page.cut], nothing)
    svg = {"layers": [sent("layer.png", b"<svg/>")]}
    with pytest.raises(ls.InputError, match="is no image"):
        page.paint(picture, opened[page.cut], svg)
    with pytest.raises(ls.InputError, match="drop a picture first"):
        page.edit(None, None, "")


def test_a_capture_in_a_zip(page: Page) -> None:
    files = capture_files()
    folder = uploads.keep_capture(Path(sent("a.zip", zipped(files))["path"]), INPUTS)
    assert folder.parent == INPUTS and (folder / "transforms.json").is_file()
    inner = {f"my capture/{name}": content for name, content in files.items()}
    update = page.take_capture(
        sent("a.zip", zipped({**inner, "__MACOSX/._x": b"", "readme.md": b"", "a/../../b.sh": b""}))
    )
    assert update[page.capture].name == "my capture" and update[page.problem] == ""
    assert not list(Path().rglob("b.sh"))


def test_a_capture_with_its_true_mesh_in_a_zip(page: Page) -> None:
    files = capture_files()
    files["mesh.obj"] = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    files["transforms.json"] = json.dumps({**json.loads(files["transforms.json"]), "mesh": "mesh.obj"}).encode()
    update = page.take_capture(sent("a.zip", zipped(files)))
    assert update[page.problem] == "" and (update[page.capture] / "mesh.obj").is_file()


def test_uploads_that_nothing_uses_are_deleted(queue: Queue) -> None:
    pictures = [uploads.keep_picture(Path("photo.png"), INPUTS) for _ in range(4)]
    capture = uploads.keep_capture(Path(sent("a.zip", zipped(capture_files()))["path"]), INPUTS)
    ordered, of_run, unused, new = pictures
    ended(queue, submit(queue, Order("ball.yaml", ordered), "views").name)
    Path("runs/ball/old").mkdir()
    Path("runs/ball/old/config.yaml").write_text(f"image: {of_run.absolute()}\n")
    for path in (ordered, of_run, unused, capture):
        os.utime(path, (1, 1))
    references = [*Path("runs").glob("*/*/config.yaml"), *queue.folder.glob("*.json")]
    assert uploads.delete_unused(INPUTS, references) == 2
    assert set(INPUTS.iterdir()) == {ordered, of_run, new}
    assert uploads.delete_unused(Path("runs/none"), []) == 0


def test_the_cameras_are_drawn(page: Page) -> None:
    update = shown(page, sent("photo.png"))
    framed, elevation_deg = update[page.framed], update[page.elevation]
    drawn = page.draw("ball.yaml", elevation_deg, framed, "")[page.orbit]
    assert f"at {elevation_deg:g}°, and the 6 views" in drawn and framed in drawn
    assert drawn.count('class="ls-view"') == 6 and drawn.count('<polygon class="ls-camera"') == 1
    moved = page.draw("ball.yaml", elevation_deg + 5, framed, "views.orbit.frames=8")[page.orbit]
    assert moved.count('class="ls-view"') == 8 and f"at {elevation_deg + 5:g}°" in moved
    refused = page.draw("ball.yaml", 80.0, framed, "")[page.orbit]
    assert "ls-warn" in refused and "elevations must stay within" in refused
    assert "did you mean" in page.draw("ball.yaml", 0.0, framed, "sede=1")[page.orbit]
    assert page.draw("ball.yaml", 0.0, "", "")[page.orbit] == page.draw("mvdream", 0.0, framed, "")[page.orbit] == ""


def test_a_killed_process_leaves_no_run_in_work(queue: Queue) -> None:
    assert main(["--config", "ball.yaml", "--views", "image=photo.png", "device=cpu", "tag=a"]) == 0
    folder = RunFolder(Path("runs/ball/a"))
    with folder.lock():
        (seen,) = history.runs(queue)
        assert seen.state == "in work" and "another process" in fragments.status(seen, Progress(), 0)
        lock = (folder.path / "lock").read_text()
    (folder.path / "lock").write_text(lock.replace(str(os.getpid()), "4194305"))  # no process has such an id
    assert history.runs(queue)[0].state == "views" and not folder.is_locked


def moved(name: str) -> bytes:
    """A transforms.json whose first image is another file."""
    data = json.loads(capture_files()["transforms.json"])
    data["frames"][0]["file_path"] = name
    return json.dumps(data).encode()


BAD_ZIPS = {
    "upwards": (lambda: zipped({**capture_files(), "../evil.png": b"x"}), "a path with other characters"),
    "absolute": (lambda: zipped({**capture_files(), "/tmp/evil.png": b"x"}), "a path with other characters"),
    "backslashes": (lambda: zipped({**capture_files(), "..\\evil.png": b"x"}), "a path with other characters"),
    "names-another-file": (
        lambda: zipped({**capture_files(), "transforms.json": moved(str(Path("photo.png").absolute()))}),
        "names a file that is not in the zip",
    ),
    "bomb": (lambda: zipped({**capture_files(), "a.png": bytes(3 * 1024**2)}), "unpacks to more than 2 MB"),
    "many": (lambda: zipped({f"{i}.png": b"" for i in range(50)}), "50 files; at most 40"),
    "no-capture": (lambda: zipped({"a.png": strip(8, 8)}), "no transforms.json and no COLMAP model"),
    "no-zip": (lambda: strip(8, 8), "not a readable zip archive (a PNG image)"),
    "empty": (lambda: b"", "not a readable zip archive (an empty file)"),
    "twice": (lambda: zipped({"a.png": b"x"}) + b"", "no transforms.json"),
}


@pytest.mark.parametrize("case", BAD_ZIPS)
def test_bad_zips(page: Page, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_UNPACKED_BYTES", 2 * 1024**2)
    monkeypatch.setattr(uploads, "MAX_FILES", 40)
    content, message = BAD_ZIPS[case]
    before = {path for path in Path().rglob("*") if "runs" not in path.parts}
    said = page.take_capture(sent("a.zip", content()))[page.problem]
    assert message in said and str(Path.cwd()) not in said and said.count("<p") == 1
    assert not list(INPUTS.glob("*")) and before == {p for p in Path().rglob("*") if "runs" not in p.parts}


def test_methods_are_named_with_what_they_need(ball_project: Path) -> None:
    names = method_names()
    assert (
        names[:3] == ["ball.yaml", "tiny.yaml", "sv3d-masked-sds"]
        and "reconstruct-views" in names
        and len(set(names)) == len(names)
    )
    for name in names[2:]:
        about = method(name).about
        said = fragments.about(about)
        assert len(about[0]) > 20 and not any("#" in part for part in about), name
        for word in ("launch.py", "configs/", ".yaml", "--train", " image=", ">prompt="):
            assert word not in said, (name, word)
    assert "prior.weights=/path/to/sv3d_p.safetensors" in method("sv3d-masked-sds").about
    assert "<pre>prior.weights=/path/to/sv3d_p" in fragments.about(method("sv3d-masked-sds").about)
    assert method("mvdream").takes == {"prompt"} and method("reconstruct-views").takes == {"data"}
    assert method("sv3d-masked-sds").takes == {"image", "images", "image_box"}
    with pytest.raises(ls.InputError, match="there is no method"):
        method("../../etc/passwd.yaml")


def test_an_order_becomes_a_job(queue: Queue) -> None:
    order = Order(
        "ball.yaml", Path("photo.png"), elevation=12.5, estimate=False, seed=3, options="system.steps=2\n# no\n\n"
    )
    entry = submit(queue, order, "views")
    assert entry.overrides["image"] == "photo.png" and entry.overrides["views.elevation_deg"] == 12.5
    assert entry.overrides["seed"] == 3 and entry.overrides["system.steps"] == "2" and entry.mode == "views"
    ended(queue, entry.name)
    assert Path(entry.overrides["runs_dir"]) == Path("runs")


BAD_ORDERS = {
    "no-picture": (Order("ball.yaml"), "drop a picture first"),
    "no-capture": (Order("reconstruct-views"), "give a zip"),
    "typo": (Order("ball.yaml", Path("photo.png"), options="sede=1"), "did you mean 'seed'"),
    "no-option": (Order("ball.yaml", Path("photo.png"), options="seed"), "expected key=value"),
    "other-file": (Order("ball.yaml", Path("photo.png"), options="image=/etc/passwd"), "a field of its own"),
    "other-files": (Order("ball.yaml", Path("photo.png"), options="images.front=/etc/passwd"), "a field of its own"),
    "other-folder": (Order("ball.yaml", Path("photo.png"), options="runs_dir=/tmp"), "a field of its own"),
    "box": (Order("ball.yaml", Path("photo.png"), box="1,2"), "expected four whole numbers"),
    "box-inverted": (
        Order("ball.yaml", Path("photo.png"), options="views.image_box=[50,10,20,60]"),
        "expected left < right",
    ),
    "box-outside": (
        Order("ball.yaml", Path("photo.png"), options="views.image_box=[0,0,9999,60]"),
        "reaches beyond the picture",
    ),
    "gone": (Order("ball.yaml", Path("gone.png")), "no such image"),
    "box-reversed": (Order("ball.yaml", Path("photo.png"), box="50,10,20,60"), "^box: expected left < right"),
    "box-unused": (Order("ball.yaml", Path("photo.png"), box="0,0,50,60"), "has no effect"),
    "no-volume": (Order("syncdreamer-neus", Path("photo.png")), "no volume"),
    "no-weights": (Order("ball.yaml", Path("photo.png"), options="prior.weights=no.safetensors"), "no such file"),
    "no-method": (Order("/etc/passwd", Path("photo.png")), "there is no method"),
}


@pytest.mark.parametrize("case", BAD_ORDERS)
def test_bad_orders_are_refused_at_once(queue: Queue, case: str) -> None:
    order, message = BAD_ORDERS[case]
    with pytest.raises(ls.InputError, match=message) as refused:
        submit(queue, order, "preview" if case == "no-volume" else "train")
    assert "\n" not in str(refused.value) and queue.entries() == []


FAULTY_FIELDS = {
    "nan": ({"elevation": math.nan, "estimate": False}, "elevation: expected a finite number, got nan"),
    "beyond": ({"elevation": 95, "estimate": False}, "elevation: expected -89"),
    "emptied": ({"elevation": None, "estimate": False}, "elevation: give a number of degrees, or let it be estimated"),
    "list": ({"elevation": [1], "estimate": False}, "elevation: expected a finite number"),
    "seed-nan": ({"seed": math.nan}, "seed: expected a whole number"),
    "seed-endless": ({"seed": math.inf}, "seed: expected a whole number"),
    "seed-half": ({"seed": 0.5}, "seed: expected a whole number"),
    "seed-below": ({"seed": -1}, "seed: expected"),
    "prompt": ({"prompt": {"a": 1}}, "prompt: expected text"),
    "no-method": ({"method": None}, "method: missing"),
}


@pytest.mark.parametrize("case", FAULTY_FIELDS)
def test_what_browsers_send_is_checked(case: str) -> None:
    sent_fields, message = FAULTY_FIELDS[case]
    with pytest.raises(ls.InputError, match=re.escape(message)):
        order_of({"method": "ball.yaml", "estimate": True, **sent_fields})
    assert order_of({"method": "a", "estimate": True, "elevation": math.nan, "seed": "", "box": None}).seed == 0


def test_a_reload_finds_the_picture_again(page: Page) -> None:
    taken = page.take(sent("photo.png"))
    found = page.find_picture(taken[page.kept])
    assert found[page.picture] == taken[page.picture] and found[page.upload].size == (197, 160)
    for wrong in (None, [], "x", ["../../etc/passwd"], ["photo.png"], [f"{'0' * 32}.png"], [5], {"a": 1}):
        assert page.picture not in page.find_picture(wrong)


def test_options_are_lines() -> None:
    assert options_of(" a.b = 1 \n#c=2\nd=e=f") == {"a.b": "1", "d": "e=f"}


def test_the_history_has_all_runs(queue: Queue) -> None:
    assert main(["--config", "ball.yaml", "--views", "image=photo.png", "device=cpu", "tag=by-hand"]) == 0
    time.sleep(0.01)
    entry = submit(queue, Order("ball.yaml", Path("photo.png"), options="tag=by-page"), "train")
    Image.new("RGBA", (64, 64)).save("empty.png")
    faulty = queue.submit("ball.yaml", "empty.png")
    ended(queue, entry.name)
    ended(queue, faulty.name, "failed")
    runs = history.runs(queue)
    assert "ball.yaml, no folder · failed: no foreground" in runs[0].title and "\n" not in runs[0].title
    assert [(run.key, run.state) for run in runs] == [
        (faulty.name, "failed"), ("ball/by-page", "done"), ("ball/by-hand", "views"),
    ]  # fmt: skip
    assert history.find(queue, entry.name) == history.find(queue, "ball/by-page") == runs[1]
    for key in ("ball/none", "../x", "/etc", "", "ball/../ball/by-hand"):
        with pytest.raises(ls.InputError, match="no such run"):
            history.find(queue, key)
    resumed = queue.resume_run(Path("runs/ball/by-hand"))
    ended(queue, resumed.name)
    assert (
        list(Path("runs/ball/by-hand/export").glob("mesh.ply")) and history.find(queue, "ball/by-hand").state == "done"
    )
    with pytest.raises(ls.InputError, match="expected the config"):
        queue.resume_run(Path("capture"))


def test_a_run_on_the_page(page: Page, queue: Queue) -> None:
    picture = page.take(sent("photo.png"))[page.picture]
    options = f"export.formats=[glb]\nsystem.waits_at={HELD_AT}\nsystem.steps=20"
    fields = (None, None, None, "ball.yaml", "", "", 10.0, False, 0.0, options, None, None, None)
    with pytest.raises(ls.InputError, match="did you mean 'seed'"):
        page.start("train", picture, *fields[:9], "sede=1", None, None, None)
    assert queue.entries() == []
    started = page.start("train", picture, *fields)
    key = started[page.shown]
    wait_until_held(queue, key)
    seen = page.look(key, "", "")
    status = seen[page.status]
    assert "stage first" in status and "of 20" in status and "left in this stage" in status and "<polyline" in status
    assert page.find_again("")[page.shown] == key, "another browser finds what is being done"
    page.stop(key)
    let_go()
    ended(queue, key, "stopped")
    stopped = page.look(key, "", "")
    assert "Resume goes on" in stopped[page.status] and stopped[page.resume_button]["interactive"]
    assert stopped[page.model] == ""
    page.resume(key)
    ended(queue, key)
    seen = page.look(key, "", "")
    assert 'src="./scenes/ball/' in seen[page.model] and "mesh.glb" in seen[page.model]
    assert not seen[page.resume_button]["interactive"] and not seen[page.stop_button]["interactive"]
    for name in (
        "turntable.mp4",
        "_albedo.png",
        "_normal.png",
        "_rgb.png",
        "mesh.glb",
        "config.yaml",
        "contact_sheet",
    ):
        assert name in seen[page.result], name
    again = page.look(key, seen[page.status_seen], seen[page.result_seen])
    assert list(again) == [page.result], "nothing is sent twice"
    folder = Path(queue.entry(key).folder)
    (folder / "report.html").write_text("<p>all of it</p>")
    assert "Open the report" in page.look(key, seen[page.status_seen], seen[page.result_seen])[page.result]
    shutil.copytree(folder, folder.with_name("copy"))
    keys = [run.key for run in history.runs(queue)]
    both = page.compare(keys)
    assert all(both[model] for _, model, _ in page.sides) and len(keys) == 2
    assert all("<polyline" in both[title] and "Messages" in both[title] for title, _, _ in page.sides)
    with pytest.raises(ls.InputError, match="at most"):
        page.compare([*keys, "x"])
    with pytest.raises(ls.InputError, match="choose one"):
        page.open(keys)
    assert page.open(keys[:1])[page.shown] == keys[0]
    shutil.rmtree(folder)
    assert page.look(key, "", "")[page.result] == ""


def test_files_of_runs_and_no_others(ball_project: Path) -> None:
    run = Path("runs/ball/a")
    (run / "test").mkdir(parents=True)
    for name in ("config.yaml", "test/a.png", "report.html", "other.html", "x.ckpt", ".hidden.png", "test/a.svg"):
        (run / name).write_text("x")
    Path("secret.png").write_text("secret")
    (run / "link.png").symlink_to(Path("secret.png").absolute())
    (run / "loop.png").symlink_to("loop.png")
    Path("runs/ball/linked").symlink_to(Path("elsewhere").absolute())
    Path("elsewhere").mkdir()
    Path("elsewhere/config.yaml").write_text("x")
    runs = Path("runs")
    for name in ("config.yaml", "test/a.png", "report.html"):
        found = run_files.find_file(runs, f"ball/a/{name}")
        assert found == (run / name).resolve() and run_files.address(runs, run / name).startswith("./runs/ball/a/")
    refused = [
        "ball/a/other.html", "ball/a/x.ckpt", "ball/a/test/a.svg", "ball/a/link.png", "ball/a/loop.png", "ball/a/test",
        "ball/linked/config.yaml", "ball/a/../../../secret.png", "ball/a/..", "/etc/passwd", "ball/a//etc/passwd.txt",
        "queue/x.json", "ball/a/test/../config.yaml", "ball/a/..\\..\\secret.png", "ball/a/a\0.png",
        f"ball/a/{'a' * 300}.png",
    ]  # fmt: skip
    assert [name for name in refused if run_files.find_file(runs, name)] == []


def test_losses_are_drawn() -> None:
    losses = {"a/loss": [(1, 1.0)], "b/loss": [(i, 10.0**-i) for i in range(1, 400)], "b/x": [(1, math.nan), (2, -1.0)]}
    plot = fragments.losses_plot(losses)
    assert plot.count("<polyline") == 2 and "nan" not in plot.split("</svg>")[0] and len(plot) < 6000
    assert fragments.losses_plot({}) == "" and duration(7200) == "2.0 h" and duration(100) == "2 min"
    assert "Drop a picture" in fragments.status(None, Progress(), 0)


@pytest.mark.parametrize("case", ["file", "port", "served"])
def test_what_is_in_the_way_is_found_before_the_slow_imports(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setitem(sys.modules, "liftstudio.studio.app.server", None)  # importing it would fail
    Path("file").touch()
    with socket.create_server(("127.0.0.1", 0)) as listener, exclusive(Path("served/queue")):
        port = str(listener.getsockname()[1])
        arguments, message = {
            "file": (["--runs-dir", "file"], "--runs-dir=file: is no folder:"),
            "port": (["--port", port], f"cannot listen at 127.0.0.1:{port}"),
            "served": (["--runs-dir", "served"], "served/queue: process"),
        }[case]
        assert main(["app", *arguments]) == 2
    assert message in capsys.readouterr().err and not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "0"], "--port: expected 1 to 65535"),
        (["--port", "x"], "invalid int value"),
        (["--runs-dirs", "x"], "unrecognized arguments"),
        (["--device", "tpu"], "invalid choice"),
    ],
)
def test_bad_arguments(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["app", *arguments]) == 2
    assert message in capsys.readouterr().err
