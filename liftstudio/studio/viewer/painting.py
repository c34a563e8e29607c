"""Renders of the scene as browsers see it: coarse while a camera moves, then finer and finer."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import viser

from liftstudio.data.render import Render
from liftstudio.run.snapshots import picture
from liftstudio.studio.viewer.cameras import Eye
from liftstudio.systems.base import System

HEIGHTS = (72, 144, 288, 576, 1152)  # of renders, pixels
LONGEST_S = 2.0  # that a render may take; finer ones are left out
LEAST_S = 0.025  # that a render counts as
FAR = 100.0  # depth where nothing is seen, world units

SceneId = tuple[str, int]  # stage, number of its steps that are done


@dataclass(frozen=True)
class _Picture:
    """What a browser shows."""

    eye: Eye
    name: str
    scene: SceneId
    height: int


class Painter:
    """Renders for browsers, one picture at a time."""

    def __init__(self) -> None:
        self.shown: dict[int, _Picture] = {}  # client -> its picture
        self.seconds: dict[int, float] = {}  # height -> that a render took last, in this stage
        self.stage = ""
        self.ended = 0.0  # time of the last render

    def paint(
        self, system: System, scene: SceneId, clients: Mapping[int, viser.ClientHandle], name: str, patience: float
    ) -> bool:
        """Render one picture, the coarsest that is due, if any; return whether one was or will be due.

        Args:
            system: renders the scene.
            scene: tells this state of the scene from others.
            clients: the browsers by number.
            name: one of PICTURES.
            patience: time from the last render, as a multiple of what the next one will take.

        Raises:
            InputError: there is nothing to render.
        """
        self.shown = {number: picture for number, picture in self.shown.items() if number in clients}
        wanted = sorted(
            (height, number, eye)
            for number, eye in ((number, Eye.of(client.camera)) for number, client in clients.items())
            if (height := self._wanted(number, eye, name, scene)) is not None
        )
        for height, number, eye in wanted:
            if time.perf_counter() - self.ended >= patience * max(LEAST_S, self.seconds.get(height, 0.0)):
                self._render(system, scene, clients[number], _Picture(eye, name, scene, height))
                break
        return bool(wanted)

    def _wanted(self, number: int, eye: Eye, name: str, scene: SceneId) -> int | None:
        """Return the height of the next picture of a browser; None: it shows the finest already."""
        shown = self.shown.get(number)
        if shown is None or (shown.eye, shown.name) != (eye, name):
            return HEIGHTS[0]
        finer = next((height for height in HEIGHTS if height > shown.height), None)
        if finer is not None and shown.height < eye.pixels and self._expected(finer) <= LONGEST_S:
            return finer
        return None if shown.scene == scene else shown.height

    def _expected(self, height: int) -> float:
        """Return the seconds that a render will take: as it did, or by a line through those of less pixels."""
        half, quarter = (self.seconds.get(height // part, 0.0) for part in (2, 4))
        return self.seconds.get(height, half + 4 * max(0.0, half - quarter))

    def _render(self, system: System, scene: SceneId, client: viser.ClientHandle, wanted: _Picture) -> None:
        is_first, self.stage = self.stage != scene[0], scene[0]
        begin = time.perf_counter()
        render = system.render(wanted.eye.cameras(wanted.height), frozenset({"depth", wanted.name} - {"rgb"}))
        pixels, depth = _shown(render, wanted.name)
        client.scene.set_background_image(pixels, format="jpeg", jpeg_quality=90, depth=depth)
        self.ended = time.perf_counter()
        if is_first:  # it compiles kernels: it is repeated, since its time tells nothing
            self.seconds = {}
        else:
            self.seconds[wanted.height], self.shown[client.client_id] = self.ended - begin, wanted


def _shown(render: Render, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture [H, W, 3] uint8 and the depth behind which it hides other things in the scene, [H, W]."""
    image = picture(render, name)[0].expand(-1, -1, 3)
    pixels = (image.clamp(0, 1) * 255).round().byte().numpy()
    depth = torch.where(render.opacity > 0.5, render.require("depth"), FAR)
    return pixels, depth[0, ..., 0].numpy()
