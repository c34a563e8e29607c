"""What a browser says to the viewer, without a browser: viser's own messages over a websocket."""

import threading
from types import TracebackType
from typing import Any

import msgspec
import viser
import zstandard
from viser import _messages
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from helpers.waiting import wait_until

PIXELS = 150  # height of the window


class Client:
    """A browser that is connected to a server of this process; used as a context."""

    def __init__(self, server: viser.ViserServer) -> None:
        address = f"ws://{server.get_host()}:{server.get_port()}"
        self.server = server
        self.socket = connect(address, subprotocols=[f"viser-v{viser.__version__}"], max_size=None, compression=None)
        self.pictures = 0  # renders received so far
        self.reader = threading.Thread(target=self._read)

    def __enter__(self) -> "Client":
        before = len(self.server.get_clients())
        self.reader.start()
        self.look(0.0)
        wait_until(lambda: len(self.server.get_clients()) > before)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        self.reader.join()
        wait_until(lambda: not self.server.get_clients())

    def look(self, shift: float) -> None:
        """Look at the origin from +x, `shift` above it."""
        pose = {"wxyz": (0.5, 0.5, -0.5, -0.5), "position": (3.0, 0.0, shift)}
        window = {"fov": 0.7, "near": 0.01, "far": 100.0, "image_height": PIXELS, "image_width": PIXELS}
        up = {"look_at": (0.0, 0.0, 0.0), "up_direction": (0.0, 0.0, 1.0)}
        self._send(_messages.ViewerCameraMessage(**pose, **window, **up))

    def use(self, control: Any, value: Any = True) -> None:
        """Click a button, or set the value of another control."""
        self._send(_messages.GuiUpdateMessage(control._impl.uuid, {"value": value}))

    def _send(self, message: _messages.Message) -> None:
        self.socket.send(msgspec.msgpack.encode(message.as_serializable_dict()))

    def _read(self) -> None:
        try:
            for data in self.socket:
                assert isinstance(data, bytes)
                end = 16 + int.from_bytes(data[8:16], "little")  # of the messages; arrays follow
                self.pictures += zstandard.decompress(data[16:end]).count(b"BackgroundImageMessage")
        except ConnectionClosed:
            pass
