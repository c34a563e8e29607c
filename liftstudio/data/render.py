"""The result of a renderer: images of one or several cameras."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PASSES = (
    "rgb",
    "albedo",
    "normal",
    "depth",
    "opacity",
    "irradiance",
    "points",
    "background",
    "distortion",
    "orientation",
)


@dataclass(frozen=True)
class Render:
    """Images of B cameras.

    rgb:        [B, H, W, 3] sRGB in [0, 1], `foreground + (1 - opacity) * background`.
    foreground: [B, H, W, 3] shaded sRGB colour, premultiplied by opacity.
    opacity:    [B, H, W, 1] in [0, 1].
    albedo:     [B, H, W, 3] sRGB, premultiplied by opacity; None if not requested (as all below).
    irradiance: [B, H, W, 1] scalar white light at the pixel, not premultiplied.
    normal:     [B, H, W, 3] unit world-space outward normals where opacity > 0, else zero.
    depth:      [B, H, W, 1] z-depth in world units where opacity > 0, else zero.
    points:     [B, H, W, 3] world-space surface points where opacity > 0, else zero.
    background: [B, H, W, 3] sRGB of the scene's background, without the object.
    distortion: [B, H, W, 1] Mip-NeRF 360 distortion (volume renderer only).
    orientation: [B, H, W, 1] penalty for normals that face away (volume renderer only); see `losses.orientation`.
    """

    rgb: Tensor
    foreground: Tensor
    opacity: Tensor
    albedo: Tensor | None = None
    irradiance: Tensor | None = None
    normal: Tensor | None = None
    depth: Tensor | None = None
    points: Tensor | None = None
    background: Tensor | None = None
    distortion: Tensor | None = None
    orientation: Tensor | None = None

    def to(self, device: torch.device | str) -> "Render":
        """Return the images on `device`."""
        images: dict[str, Any] = {n: None if image is None else image.to(device) for n, image in vars(self).items()}
        return Render(**images)

    def require(self, name: str) -> Tensor:
        """Return the image of a pass that was requested."""
        image = getattr(self, name)
        assert image is not None, f"the pass '{name}' was not rendered"
        return image

    def over(self, background: Tensor | float) -> Tensor:
        """Return the foreground composited over another background colour, [B, H, W, 3]."""
        return self.foreground + (1 - self.opacity) * background


def join(renders: Sequence[Render]) -> Render:
    """Return several renders with the same passes as one render of all their cameras."""
    names = [name for name, image in vars(renders[0]).items() if image is not None]
    images: dict[str, Any] = {name: torch.cat([getattr(render, name) for render in renders]) for name in names}
    return Render(**images)
