"""Stand-ins for libraries that are not installed, never for the project's own code."""

import importlib.machinery
import sys
import types

import numpy as np
import pytest
from PIL import Image


def rembg_that_keeps(box: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Return a module `rembg` that cuts out the same box (left, top, right, bottom) of any image."""
    rembg = types.ModuleType("rembg")
    rembg.__spec__ = importlib.machinery.ModuleSpec("rembg", None)

    def remove(image: Image.Image, **_: object) -> Image.Image:
        alpha = np.zeros((image.height, image.width), np.uint8)
        alpha[box[1] : box[3], box[0] : box[2]] = 255
        return Image.fromarray(np.dstack([np.array(image), alpha]))

    rembg.remove, rembg.new_session = remove, lambda name: name  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rembg", rembg)
    return rembg
