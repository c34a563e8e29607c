"""Images of real meshes compared with plain torch; variation of meshes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from packed_meshes import SEED
from torch import Tensor

from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.synthetic.draws import Draws
from liftstudio.synthetic.textures import Pattern
from liftstudio.training.meshes import reference
from liftstudio.training.meshes.packs import StoredMesh
from liftstudio.training.meshes.posing import pose
from liftstudio.training.meshes.rendering import Lighting, draw_lighting, render
from liftstudio.training.meshes.variation import recoloured, varied


def random_cameras(count: int) -> Cameras:
    azimuth, elevation, distance = torch.rand(3, count, generator=torch.Generator().manual_seed(SEED)).unbind(0)
    cameras = orbit_cameras(360 * azimuth, 160 * elevation - 80, 2.6 + 2 * distance, 40.0, 44, 60)
    return replace(cameras, cx=cameras.cx + 3.3, cy=cameras.cy - 2.7)


@pytest.mark.parametrize("pattern", list(Pattern))
def test_renderer_against_plain_torch(meshes: list[StoredMesh], draws: Draws, pattern: Pattern) -> None:
    cameras = random_cameras(3)
    for mesh in meshes:
        obj = varied(mesh, draws)
        second = 255 - obj.textures[0]
        overlay = replace(obj.overlay, pattern=pattern, count=3.7, shift=0.35)
        obj = replace(obj, textures=np.stack([obj.textures[0], second]), overlay=overlay)
        lighting = draw_lighting(draws)
        fast, slow = render(obj, cameras, lighting), reference.render(obj, cameras, lighting)
        assert torch.equal(fast.alpha, slow.alpha) and 0 < slow.alpha.mean() < 1
        # Faces seen nearly edge-on are where a sample's depth is ill-conditioned; rounding moves a sample across the
        # border of a stripe now and then.
        assert ((fast.depth - slow.depth).abs() > 1e-4).float().mean() < 1e-3
        assert ((fast.rgb - slow.rgb).abs().amax(-1) > 1e-3).float().mean() < 4e-3


def test_winding_and_light(meshes: list[StoredMesh]) -> None:
    """Faces look the same from both sides, and brighter where the light comes from."""
    lighting = Lighting(np.full(3, 0.3), np.array([[1.0, 0, 0]]), np.full((1, 3), 0.7))
    cameras = orbit_cameras(torch.tensor([0.0, 180.0]), torch.zeros(2), 3.6, 33.8, 48, 48)
    heart = next(mesh for mesh in meshes if "heart" in mesh.name)
    flipped = replace(heart, faces=np.ascontiguousarray(heart.faces[:, ::-1]))
    images = [render(pose(mesh), cameras, lighting) for mesh in (heart, flipped)]
    assert (images[0].rgb - images[1].rgb).abs().mean() < 1e-3  # nearly edge-on normals may turn over
    front, back = ((image.rgb * alpha).sum() / alpha.sum() for image, alpha in zip(*_halves(images[0]), strict=True))
    assert front > 1.3 * back


def _halves(images: Any) -> tuple[list[Any], list[Tensor]]:
    return [replace(images, rgb=images.rgb[i]) for i in range(2)], [images.alpha[i] for i in range(2)]


def test_texels_are_where_the_uv_says() -> None:
    """A quad seen from the front shows its texture upright; a palette is not interpolated."""
    corners = np.array([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]], np.float32)
    uv = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
    palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]], np.uint8)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    square = StoredMesh("square", corners, faces, uv, np.array([[0, 1], [2, 3]], np.uint8), palette)
    row = replace(square, texels=np.array([[0, 1, 2, 3]], np.uint8))
    even = Lighting(np.ones(3), np.zeros((0, 3)), np.zeros((0, 3)))
    camera = orbit_cameras(torch.zeros(1), torch.zeros(1), 3.6, 28.1, 64, 64)  # shows 1.8 world units
    rgb = render(pose(square), camera, even).rgb[0]
    for place, color in {(16, 16): 0, (16, 47): 1, (47, 16): 2, (47, 47): 3}.items():
        assert torch.allclose(rgb[place], torch.from_numpy(palette[color]).float() / 255, atol=0.05)
    assert 0.3 < rgb[16, 31:33, :2].mean() < 0.7  # between two texels
    shown = {tuple(color.tolist()) for color in render(pose(row), camera, even).rgb[0, 32, 4:60]}
    assert len(shown) <= 4 + 3  # the colours, and a pixel across each border


def test_variation_changes_shape_side_and_colours(meshes: list[StoredMesh], draws: Draws) -> None:
    mesh = meshes[0]
    drawn = [varied(mesh, draws) for _ in range(150)]
    ratios = np.array([obj.half / obj.half.max() for obj in drawn]) / (pose(mesh).half / pose(mesh).half.max())
    assert ratios.min() > 0.8 / 1.25 - 0.01 and ratios.max() < 1.25 / 0.8 + 0.01 and ratios.std(0).max() > 0.05
    assert 40 < sum(obj.mirrored for obj in drawn) < 110
    recolored = sum(not np.array_equal(obj.textures[0], mesh.palette[mesh.texels]) for obj in drawn)
    assert 5 <= recolored <= 45
    assert any(obj.overlay.pattern != Pattern.SOLID for obj in drawn)
    grey = np.full((4, 3), 128, np.uint8)
    assert np.ptp(recoloured(grey, draws), axis=1).max() > 3
