"""The page over HTTP: what is served and what is not, tokens, limits, and several visitors at once."""

import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import Launched
from helpers.queues import BALL, HELD_AT, all_ended, held_folder, kept, let_go
from helpers.waiting import wait_until

pytest.importorskip("gradio", reason="the page needs gradio")

from helpers.page_visitor import Visitor, serving

from liftstudio.cli.app import run as run_command
from liftstudio.studio.app import guard, page, uploads
from liftstudio.studio.app.guard import COOKIE, OVERHEAD
from liftstudio.studio.queue import Queue

FIELDS = ("ball.yaml", "", "", 10.0, False, 0, "export.formats=[glb]")  # of the page, after the files
FILES = (None, None, None, None)  # a mode, and files, which the session keeps


@pytest.fixture
def served(ball_project: Path) -> Iterator[tuple[Queue, int]]:
    Path("secret.png").write_text("secret")
    with serving(Path("runs")) as running:
        yield running


def send(visitor: Visitor) -> Visitor:
    """Upload the picture."""
    status, file = visitor.upload(Path("photo.png").read_bytes(), "photo.png")
    assert status == 200 and visitor.call("take", file)["problem"] == ""
    return visitor


def order(visitor: Visitor, options: str = "") -> str:
    """Ask for the mesh; returns how the run begins."""
    shown = start(visitor, options=f"export.formats=[glb]\n{options}")
    assert shown["problem"] == "", shown
    return shown["status"]


def start(visitor: Visitor, **changed: Any) -> dict[str, Any]:
    """Press Lift, with some fields changed; returns what the page shows."""
    fields = [changed.get(name, value) for name, value in zip(page.FIELDS, FIELDS, strict=True)]
    return visitor.call("start", None, *FILES, *fields, None, None, None, of="do-lift")


def test_a_run_over_http(served: tuple[Queue, int]) -> None:
    queue, port = served
    visitor = Visitor(port)
    assert "max_file_size" in visitor.config and not visitor.config["analytics_enabled"]
    order(send(visitor))
    all_ended(queue, 1)
    found = visitor.call("find_again", "")
    assert "Drop a picture" in found["status"], "nothing is being done, and this browser has seen nothing"
    entry = queue.entries()[0]
    shown = visitor.call("find_again", entry.name)
    addresses = re.findall(r'(?:href|src)="\.(/runs/[^"]+)"', shown["result"])
    assert any("mesh.glb" in address for address in addresses)
    for address in addresses:
        status, headers, body = visitor.ask_all("GET", address)
        assert status == 200 and body and headers["x-content-type-options"] == "nosniff", address
    scene = re.findall(r'src="\.(/scenes/[^"]+)"', shown["mesh"])[0]
    status, headers, body = visitor.ask_all("GET", scene)
    assert status == 200 and headers["content-security-policy"].startswith("sandbox") and b"wireframe" in body
    mesh = Path(entry.folder, "export/mesh.glb")
    run = "/".join(Path(entry.folder).parts[-2:])
    for name in (f"{run}/config.yaml", f"{run}/export/none.glb", "secret.png", f"{run}/..%2f..%2f../secret.glb"):
        assert visitor.ask("GET", f"/scenes/{name}")[0] == 404, name
    mesh.write_bytes(b"no mesh")
    assert visitor.ask("GET", scene) == (422, b"mesh.glb cannot be shown: ValueError")


def test_nothing_else_is_served(served: tuple[Queue, int]) -> None:
    queue, port = served
    visitor = Visitor(port)
    order(send(visitor))
    all_ended(queue, 1)
    run = Path(queue.entries()[0].folder)
    (run / "report.html").write_text("<script>1</script>")
    (run / "link.png").symlink_to(Path("secret.png").absolute())
    status, headers, _ = visitor.ask_all("GET", f"/{run}/report.html")
    assert status == 200 and headers["content-security-policy"].startswith("sandbox")
    secret, here = str(Path("secret.png").absolute()), str(Path.cwd())
    for path in (
        f"/{run}/link.png", f"/{run}/../../../secret.png", f"/{run}/..%2f..%2f..%2fsecret.png",
        f"/{run}/%2e%2e/%2e%2e/%2e%2e/secret.png", f"/{run}/..%252f..%252fsecret.png", f"/runs/{secret}",
        f"/runs//{secret}", f"/runs/%2f{secret}", f"/{run}/checkpoints/inputs.ckpt",
        f"/runs/queue/{queue.entries()[0].name}.json",
        f"/gradio_api/file={secret}", "/gradio_api/file=../secret.png", "/gradio_api/file=secret.png",
        f"/gradio_api/file={here}/runs/uploads/../../secret.png",
        f"/gradio_api/file={here}/runs/uploads/%2e%2e/%2e%2e/secret.png",
        f"/gradio_api/file={here}/ball.yaml", "/gradio_api/file=/etc/passwd", "/gradio_api/file=%2fetc%2fpasswd",
        f"/gradio_api/file=file://{secret}", "/gradio_api/file=http://127.0.0.1:1/x", "/file=/etc/passwd",
        "/static/../../../../etc/passwd", "/assets/..%2f..%2f..%2f..%2fetc/passwd", "/theme.css/../../etc/passwd",
    ):  # fmt: skip
        status, body = visitor.ask("GET", path)
        assert status in (400, 403, 404, 405) and body != b"secret" and b"root:" not in body, path


def test_an_event_cannot_name_another_file(served: tuple[Queue, int]) -> None:
    visitor = send(Visitor(served[1]))
    kept = list(Path("runs/inputs").iterdir())
    paths = (str(Path("photo.png").absolute()), "/etc/passwd", "../photo.png", "photo.png")
    files = [{"path": path} for path in paths]  # gradio checks only those that say what they are
    files += [{**file, "meta": {"_type": "gradio.FileData"}} for file in files]
    for file in files:
        strokes = {"background": None, "layers": [file], "composite": None}
        assert is_refused(visitor, "paint", [None, None, strokes]), file
        assert is_refused(visitor, "take_capture", [file]), file
        assert is_refused(visitor, "take_other", [file, None]), file
    for file in files:  # last: a refused picture is forgotten, and then there is nothing to paint on
        assert is_refused(visitor, "take", [file]), file
    assert Path("photo.png").is_file() and list(Path("runs/inputs").iterdir()) == kept


def is_refused(visitor: Visitor, event: str, data: list[Any]) -> bool:
    """Return whether the event fails, or its message is that there is no file."""
    try:
        return "no file" in visitor.call(event, *data)["problem"]
    except AssertionError as error:
        return "success" in str(error)


def test_uploads_are_limited(served: tuple[Queue, int]) -> None:
    visitor = Visitor(served[1])
    before = sorted(path for path in Path().rglob("*") if "uploads" not in path.parts)
    status, said = visitor.upload(bytes(uploads.MAX_BYTES + 1), "a.png")
    assert status in (413, 500) and "exceed" in said, said
    status, said = visitor.upload(bytes(uploads.MAX_BYTES + OVERHEAD + 1), "a.png")
    assert (status, said) == (413, "too large: more than 51 MB")
    status, _ = visitor.ask(
        "POST", "/gradio_api/upload", headers={"Transfer-Encoding": "chunked", "Content-Length": "x"}
    )
    assert status in (400, 411)
    for name in (
        "../../evil.png",
        "..%2fevil.png",
        "/tmp/evil.png",
        "a\\..\\evil.png",
        "x" * 500 + ".png",
        "<b>.png",
        ".png",
    ):
        status, file = visitor.upload(b"<!doctype html>", name)
        if status == 200:
            assert Path(file["path"]).resolve().is_relative_to(Path("runs/uploads").resolve()), name
            said = visitor.call("take", file)["problem"]
            assert said.count("<p") == 1 and "<b>" not in said, said
    assert sorted(path for path in Path().rglob("*") if "uploads" not in path.parts) == before


def test_numbers_that_are_none_are_refused_on_the_page(served: tuple[Queue, int]) -> None:
    queue, port = served
    visitor = Visitor(port)
    send(visitor)
    nan, inf = float("nan"), float("inf")
    faults: dict[str, tuple[Any, ...]] = {
        "elevation": (nan, None, "", 95, [1], {"a": 1}, "x" * 9999),
        "seed": (nan, inf, 1e300, -1, [1], {"a": 1}, "x"),
        "method": ("none", None, 5, ["ball.yaml"], {"a": 1}, "../../etc/passwd"),
        "box": (["1"], {"a": 1}, "9,9,1,1", 7),
        "options": ([1], {"a": 1}, 5, "x"),
        "estimate": ([1], {"a": 1}, "maybe"),
    }
    for name, values in faults.items():
        for value in values:
            said = start(visitor, **{name: value})["problem"]
            assert said.count("<p") == 1 and len(said) < 900 and "Traceback" not in said and said, (name, value)
            assert "fault" not in said, said
    for value in (*faults["elevation"], *faults["method"]):
        assert visitor.call("draw", value, value, None, value) is not None
    for event in ("choose", "find_picture", "find_again", "stop", "resume", "compare", "open"):
        for value in (None, 5, [1], {"a": 1}, "x" * 9999):
            assert "fault" not in str(visitor.call(event, value)), (event, value)
    assert queue.entries() == []


def test_other_sites_are_refused(served: tuple[Queue, int]) -> None:
    visitor = Visitor(served[1])
    assert visitor.ask("GET", "/", headers={"Host": "evil.example"})[0] == 403
    assert visitor.ask("POST", "/gradio_api/upload", b"", {"Origin": "https://evil.example"})[0] == 403
    status, headers, body = visitor.ask_all("GET", "/")
    assert status == 200 and "script-src 'self'" in headers["content-security-policy"]
    html = body.decode()
    assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?://(?!127\.0\.0\.1)', html)


def test_the_token_is_asked_for(ball_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "WRONG_TOKEN_S", 0.1)
    with serving(Path("runs"), token="right", hosts=()) as (_, port):
        visitor = Visitor(port, {"Cookie": f"{COOKIE}=right"})
        assert visitor.ask("GET", "/")[0] == 200
        visitor.headers = {}
        for path in ("/", "/config", "/gradio_api/file=x", "/runs/a/b/config.yaml", "/gradio_api/info", "/theme.css"):
            status, body = visitor.ask("GET", path)
            assert status == 401 and b"Token" in body and b"gradio" not in body, path
        assert visitor.ask("POST", "/gradio_api/queue/join", b"{}")[0] == 401
        assert visitor.ask("GET", "/", headers={"Cookie": f"{COOKIE}=wrong"})[0] == 401
        assert visitor.ask("POST", "/enter", b"token=wrong")[0] == 401
        assert visitor.ask("POST", "/enter", b"token=" + bytes(OVERHEAD + 9))[0] == 413
        status, headers, _ = visitor.ask_all("POST", "/enter", b"token=right")
        assert status == 303 and f"{COOKIE}=right" in headers["set-cookie"] and "HttpOnly" in headers["set-cookie"]


def test_three_visitors_queue_runs_that_are_each_done_once(
    served: tuple[Queue, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, port = served
    monkeypatch.setattr("liftstudio.studio.report.page.write_report", lambda folder: folder.report)
    visitors = [Visitor(port) for _ in range(3)]

    def visit(visitor: Visitor) -> None:
        send(visitor)
        for _ in range(2):
            order(visitor, "system.steps=2\ntest.frames=1\ntest.stills=0")

    threads = [threading.Thread(target=visit, args=(visitor,)) for visitor in visitors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folders = [entry.folder for entry in all_ended(queue, 6)]
    assert [entry.state for entry in queue.entries()] == ["done"] * 6 and len(set(folders)) == 6
    assert all(len(re.findall("--train", Path(folder, "command.txt").read_text())) == 1 for folder in folders)


def test_a_killed_server_goes_on(ball_project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve = ("app", "--device", "cpu", "--port", str(port))
    server = Launched(*serve, knows=BALL)
    try:
        order(send(arrived(port, server)), f"system.waits_at={HELD_AT}\ncheckpoint.every=1")
        held_folder()
        server.kill()
        server = Launched(*serve, knows=BALL)
        visitor = arrived(port, server)
        assert "ls-running" in (shown := visitor.call("find_again", "")["status"]) or "ls-waiting" in shown
        let_go()
        wait_until(lambda: not kept()[0].is_open)
        assert [(entry.state, entry.mode) for entry in kept()] == [("done", "resume")]
        assert len(list(Path("runs/ball").iterdir())) == 1
        server.send_signal(signal.SIGINT)
        assert server.exit_code() in (0, 3), "done, or interrupted if asyncio saw the signal before the server did"
    finally:
        server.kill()


def arrived(port: int, server: Launched) -> Visitor:
    """Return a visitor of a server, once it listens."""

    def listens() -> bool:
        assert not server.ended()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens)
    return Visitor(port)


def test_a_taken_port(served: tuple[Queue, int], capsys: pytest.CaptureFixture[str]) -> None:
    from liftstudio.cli.command_line import main

    assert main(["app", "--port", str(served[1]), "--runs-dir", "others"]) == 2
    assert f"cannot listen at 127.0.0.1:{served[1]}" in capsys.readouterr().err and not Path("others").exists()
    assert callable(run_command)
