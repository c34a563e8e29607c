"""A running page, and visitors that do over HTTP what a browser does."""

import contextlib
import http.client
import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from liftstudio.studio.app.server import app
from liftstudio.studio.queue import Queue

WAIT_S = 120


@contextlib.contextmanager
def serving(runs_dir: Path, token: str = "", hosts: tuple[str, ...] = ("127.0.0.1",)) -> Iterator[tuple[Queue, int]]:
    """Yield the queue and the port of a page that is served by a thread of this process."""
    queue = Queue(runs_dir, "cpu", preview_every_s=0.0)
    server = uvicorn.Server(
        uvicorn.Config(app(queue, hosts, token), port=0, log_level="critical", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.time() + WAIT_S
        while not server.started:
            assert time.time() < until and thread.is_alive()
            time.sleep(0.01)
        yield queue, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        queue.close()


class Visitor:
    """A session of the page. `values`: what its events have given to the components with an id, newest last."""

    def __init__(self, port: int, headers: dict[str, str] | None = None) -> None:
        self.port, self.headers, self.session = port, headers or {}, uuid.uuid4().hex
        self.config = json.loads(self.ask("GET", "/config")[1])
        self.ids = {c["id"]: c["props"].get("elem_id") for c in self.config["components"]}

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return status and body of the answer to a request whose path is sent as it is."""
        status, _, answer = self.ask_all(method, path, body, headers)
        return status, answer

    def ask_all(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Return also the headers of the answer, by names in lower case."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()

    def upload(self, content: bytes, name: str) -> tuple[int, Any]:
        """Return the status, and the file as components name it, or the server's message."""
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        body = head + content + f"\r\n--{mark}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
        status, answer = self.ask("POST", "/gradio_api/upload", body, kind)
        if status != 200:
            return status, answer.decode()
        return status, {"path": json.loads(answer)[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def call(self, event: str, *data: Any, of: str = "") -> dict[str, Any]:
        """Return what an event gives to the components with an id.

        of: id of the component whose event it is, where several call the same function.
        """
        found = [
            d
            for d in self.config["dependencies"]
            if d["api_name"].startswith(event) and (not of or self.ids[d["targets"][0][0]] == of)
        ]
        body = {"data": list(data), "fn_index": found[0]["id"], "session_hash": self.session, "trigger_id": None}
        kind = {"Content-Type": "application/json"}
        status, answer = self.ask("POST", "/gradio_api/queue/join", json.dumps(body).encode(), kind)
        assert status == 200, answer
        message = self._completed()
        assert message["success"], message
        outputs = zip(found[0]["outputs"], message["output"]["data"], strict=True)
        return {self.ids[number]: value for number, value in outputs if self.ids[number] and not _is_skip(value)}

    def _completed(self) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        with contextlib.closing(connection):
            connection.request("GET", f"/gradio_api/queue/data?session_hash={self.session}", headers=self.headers)
            for line in connection.getresponse():
                message = json.loads(line.removeprefix(b"data:")) if line.startswith(b"data:") else {}
                if message.get("msg") == "process_completed":
                    return message
        raise AssertionError("the event has not ended")


def _is_skip(value: Any) -> bool:
    return isinstance(value, dict) and value == {"__type__": "update"}
