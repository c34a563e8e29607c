"""The page of the viewer and its server."""

import contextlib
import io
import socket
import threading
from collections.abc import Mapping

import numpy as np
import viser
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.data.cameras import Cameras
from liftstudio.data.images import reduce_image
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.studio.viewer.cameras import add_frusta
from liftstudio.studio.viewer.panel import Panel

THUMBNAIL = 96  # pixels along the longer side of a picture in a frustum
TRAINING = (100, 116, 139)  # colours of frusta
ASKED = ((79, 70, 229), (217, 119, 6), (13, 148, 136), (219, 39, 119))
START = (3.2, -1.2, 1.2)  # of a browser's camera, world units
FOV = 0.7  # of it, radians


class _Server(viser.ViserServer):
    def request_share_url(self, verbose: bool = True) -> str | None:
        """Refuse what any browser may ask for: an address by which everybody reaches this machine."""
        return None


class Window:
    """The scene in browsers, and the panel beside it.

    changed: set when a browser moves its camera or uses a control.
    """

    def __init__(self, host: str, port: int, *, steerable: bool) -> None:
        """Start the server; a port that is taken is replaced by the next free one.

        Raises:
            InputError: this machine has no such address.
        """
        _check_host(host)
        self.changed = threading.Event()
        with contextlib.redirect_stdout(io.StringIO()):  # viser's own banner
            self.server = _Server(host, port, label="liftstudio", verbose=False)
        scene = self.server.scene
        self.training = scene.add_frame("/training", show_axes=False)
        self.asked = scene.add_frame("/asked", show_axes=False, visible=False)
        self.server.initial_camera.position = START
        self.server.initial_camera.look_at = (0.0, 0.0, 0.0)
        self.server.initial_camera.fov = FOV
        self.panel = Panel(self.server.gui, self.changed.set, steerable=steerable)
        self.panel.training.on_update(lambda _: setattr(self.training, "visible", self.panel.training.value))
        self.panel.asked.on_update(lambda _: setattr(self.asked, "visible", self.panel.asked.value))
        self.server.on_client_connect(self._watch)
        self.frusta: list[viser.CameraFrustumHandle] = []
        log.info("viewer: %s", self.address)

    def _watch(self, client: viser.ClientHandle) -> None:
        client.camera.on_update(lambda _: self.changed.set())

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        return f"http://{self.server.get_host()}:{self.server.get_port()}"

    def clients(self) -> Mapping[int, viser.ClientHandle]:
        """Return the browsers that show the page now."""
        return self.server.get_clients()

    def show_training(self, views: ReferenceViews | None) -> None:
        """Show the cameras that the run is fitted to, with their pictures."""
        if views is None:
            return
        shown = views.training()
        cameras = shown.cameras.to("cpu")
        pictures = [_thumbnail(image, mask) for image, mask in zip(shown.images, shown.masks, strict=True)]
        add_frusta(self.server.scene, "/training", cameras, pictures, TRAINING)

    def show_asked(self, cameras: Mapping[str, Cameras]) -> None:
        """Show the cameras that each guidance asked for."""
        with self.server.atomic():
            for frustum in self.frusta:
                frustum.remove()
            self.frusta = [
                frustum
                for index, (name, batch) in enumerate(cameras.items())
                for frustum in add_frusta(
                    self.server.scene, f"/asked/{name}", batch.to("cpu"), None, ASKED[index % len(ASKED)]
                )
            ]

    def wait(self, seconds: float) -> None:
        """Wait until a browser moves its camera or uses a control, or the time is over."""
        self.changed.wait(seconds)
        self.changed.clear()

    def close(self) -> None:
        """Stop the server."""
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()


def _thumbnail(image: Tensor, mask: Tensor) -> np.ndarray:
    scale = min(1.0, THUMBNAIL / max(image.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    rgb, alpha = reduce_image(image.cpu(), mask.cpu(), height, width)
    return ((rgb * alpha + 1 - alpha).clamp(0, 1) * 255).round().byte().numpy()


def _check_host(host: str) -> None:
    """Check the address, since viser would wait for it forever."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.bind(address)
    except OSError as error:
        raise InputError(f"viewer: this machine has no address {host} ({error.strerror or error})") from None
