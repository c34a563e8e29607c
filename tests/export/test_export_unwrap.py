import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
import xatlas
from export_shapes import lopsided, position_color
from helpers.tiny_scenes import from_trimesh
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.spatial import cKDTree

from liftstudio.core.errors import InputError
from liftstudio.data.mesh import Mesh
from liftstudio.export.atlas import FACES_PER_PIECE
from liftstudio.export.bake import Texels, bake_texture, surface_texels
from liftstudio.export.cleanup import decimate, face_components, vertex_normals
from liftstudio.export.seams import mended, seam_differences
from liftstudio.export.unwrap import UvMesh, unwrap_mesh

SIZE = 256


def texels_of(mesh: Mesh, uv_mesh: UvMesh, size: int = SIZE) -> Texels:
    return surface_texels(uv_mesh, vertex_normals(mesh)[uv_mesh.source], size)


def chart_image(uv_mesh: UvMesh, size: int) -> np.ndarray:
    """Return the chart number (from 1) at every texel centre [size, size], 0 outside; triangle by triangle."""
    _, chart = face_components(uv_mesh.mesh)  # charts share no vertices
    image = np.zeros((size, size), int)
    corners = uv_mesh.uv.double().numpy()[uv_mesh.mesh.faces] * size
    for (a, b, c), label in zip(corners, chart, strict=True):
        low = np.floor(np.minimum(np.minimum(a, b), c) - 0.5).astype(int)
        high = np.ceil(np.maximum(np.maximum(a, b), c) + 0.5).astype(int)
        x, y = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
        p = np.stack([x + 0.5, y + 0.5], -1)
        sides = [
            (q[0] - o[0]) * (p[..., 1] - o[1]) - (q[1] - o[1]) * (p[..., 0] - o[0]) for o, q in ((a, b), (b, c), (c, a))
        ]
        inside = (np.min(sides, 0) > 0) | (np.max(sides, 0) < 0)
        taken = image[size - 1 - y[inside], x[inside]]
        assert ((taken == 0) | (taken == label + 1)).all(), "charts overlap"
        image[size - 1 - y[inside], x[inside]] = label + 1
    return image


@pytest.mark.parametrize(("gutter", "size"), [(4, SIZE), (2, 128), (0, 64)])
def test_charts_keep_their_distance_from_each_other_and_the_border(gutter: int, size: int) -> None:
    uv_mesh = unwrap_mesh(lopsided(), size, gutter)
    assert uv_mesh.gutter == gutter
    labels = chart_image(uv_mesh, size)
    assert len(np.unique(labels)) - 1 <= uv_mesh.charts
    reach = max(2 * gutter - 1, 0)  # between centres; a chart may begin anywhere in a texel
    offsets = np.arange(-reach, reach + 1)
    disk = offsets[:, None] ** 2 + offsets**2 <= reach**2
    nearby_max = maximum_filter(labels, footprint=disk)
    nearby_min = minimum_filter(np.where(labels, labels, 10**9), footprint=disk)
    covered = labels > 0
    assert (nearby_max == labels)[covered].all()
    assert (nearby_min == labels)[covered].all()
    assert uv_mesh.uv.min() >= gutter / size
    assert uv_mesh.uv.max() <= 1 - gutter / size


def test_cutting_keeps_the_surface() -> None:
    mesh = lopsided(64)
    assert len(mesh.faces) > FACES_PER_PIECE  # more than one piece
    seen: list[float] = []
    uv_mesh = unwrap_mesh(mesh, 512, 4, seen.append)
    assert torch.equal(uv_mesh.source[uv_mesh.mesh.faces], mesh.faces)
    assert torch.equal(uv_mesh.mesh.vertices, mesh.vertices[uv_mesh.source])
    assert seen == sorted(seen)
    assert len(seen) >= 3
    assert seen[-1] == 1.0


@pytest.fixture
def replace_atlas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replace `Atlas` in new processes by the class that the code defines, in which `Atlas` is the real one."""

    def replace(code: str) -> None:
        text = f"import os, pathlib, xatlas\nfrom xatlas import Atlas\n{code}\nxatlas.Atlas = Atlas\n"
        (tmp_path / "sitecustomize.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return replace


def test_no_atlas_is_ever_destroyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace_atlas: Callable[[str], None]
) -> None:
    made, destroyed = tmp_path / "made", tmp_path / "destroyed"
    replace_atlas(f"""
class Atlas(Atlas):
    def __init__(self):
        super().__init__()
        pathlib.Path({str(made)!r}).touch()
    def __del__(self):
        pathlib.Path({str(destroyed)!r}).touch()
""")
    monkeypatch.delattr(xatlas, "Atlas")  # none is made in this process
    unwrap_mesh(lopsided(), SIZE, 4)
    with pytest.raises(InputError, match="too many charts for a texture of 16 x 16 texels"):
        unwrap_mesh(decimate(lopsided(64, 0.05, 1), 3000), 16, 1)
    assert made.exists() and not destroyed.exists()


@pytest.mark.parametrize(
    ("crash", "message"),
    [
        ("raise ValueError('no charts today')", "status 1 (.|\n)*ValueError: no charts today"),
        ("os.kill(os.getpid(), 9)", "status -9"),
        ("os.write(2, b'double free'), os.abort()", "status -6 (.|\n)*double free"),
    ],
)
def test_a_crash_of_xatlas_is_an_error(replace_atlas: Callable[[str], None], crash: str, message: str) -> None:
    replace_atlas(f"class Atlas:\n    def __init__(self):\n        {crash}")
    with pytest.raises(RuntimeError, match=message):
        unwrap_mesh(lopsided(), SIZE, 4)


def test_ctrl_c_ends_the_process_of_xatlas(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Watched(subprocess.Popen[bytes]):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)
            started.append(self)

    def interrupted(fraction: float) -> None:
        assert 0 < fraction < 1  # reported while it works
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Watched)
    with pytest.raises(KeyboardInterrupt):
        unwrap_mesh(lopsided(64), 512, 4, interrupted)
    assert [process.wait(10) for process in started] == [-signal.SIGKILL]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_texture_is_well_used_at_any_scale_of_the_world(scale: float) -> None:
    mesh = Mesh(lopsided().vertices * scale, lopsided().faces)
    texels = texels_of(mesh, unwrap_mesh(mesh, SIZE, 2))
    assert len(texels.pixel) > 0.3 * SIZE**2


def test_every_texel_within_the_gutter_has_the_colour_of_the_nearest_one_of_the_surface() -> None:
    mesh = lopsided()
    texels = texels_of(mesh, unwrap_mesh(mesh, SIZE, 4))
    image = bake_texture(lambda points, normals: position_color(points), texels).reshape(-1, 3)
    inside = np.stack(np.divmod(texels.pixel.numpy(), SIZE), 1)
    everywhere = np.stack(np.divmod(np.arange(SIZE**2), SIZE), 1)
    distance, nearest = cKDTree(inside).query(everywhere, k=12)
    ties = distance <= distance[:, :1] + 1e-9
    same = (image[texels.pixel.numpy()[nearest]] == image[:, None]).all(-1)
    near = distance[:, 0] <= 4
    assert near.sum() > len(inside)
    assert (same & ties).any(1)[near].all()


def test_the_colour_does_not_jump_at_seams() -> None:
    mesh = lopsided()
    uv_mesh = unwrap_mesh(mesh, SIZE, 4)
    texture = bake_texture(lambda points, normals: 0.5 + 0.5 * torch.sin(9 * points), texels_of(mesh, uv_mesh))
    even = mended(uv_mesh, texture)
    before, after = (seam_differences(uv_mesh, image) for image in (texture, even))
    assert len(after) > 1000
    assert before.max() > 5  # the texels outside the charts are those of the nearest point inside
    assert after.max() < 2 and after.mean() < 0.25 * before.mean()
    assert np.abs(even.astype(int) - texture).mean() < 0.5  # nothing else changes
    one_color = np.full((SIZE, SIZE, 3), 99, np.uint8)
    assert (mended(uv_mesh, one_color) == 99).all() and seam_differences(uv_mesh, one_color).max() < 1e-9


def test_jumps_are_measured_across_the_cut() -> None:
    """Two triangles of a square, each in a half of the texture of its own: black and grey."""
    square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 1, 0]])
    uv = torch.tensor([[0.1, 0.1], [0.3, 0.1], [0.3, 0.3], [0.6, 0.1], [0.8, 0.3], [0.6, 0.3]])
    uv_mesh = UvMesh(Mesh(square, torch.tensor([[0, 1, 2], [3, 4, 5]])), torch.tensor([0, 1, 2, 0, 2, 3]), uv, 2, 0)
    texture = np.zeros((64, 64, 3), np.uint8)
    texture[:, 32:, 1] = 40
    jumps = seam_differences(uv_mesh, texture)
    assert len(jumps) == np.ceil(3 * 0.2 * np.sqrt(2) * 64) and np.allclose(jumps, 40)


def test_texels_have_their_point_and_normal() -> None:
    sphere = from_trimesh(trimesh.creation.icosphere(4))
    texels = texels_of(sphere, unwrap_mesh(sphere, SIZE, 2))
    assert (texels.points.norm(dim=-1) - 1).abs().max() < 2e-3  # the sagitta of the faces
    assert (texels.points - texels.normals).norm(dim=-1).max() < 1e-2
    assert (texels.normals.norm(dim=-1) - 1).abs().max() < 1e-5


def test_a_ragged_surface_gets_narrower_gutters_and_an_impossible_one_is_refused() -> None:
    ragged = decimate(lopsided(64, 0.05, 1), 3000)
    uv_mesh = unwrap_mesh(ragged, SIZE, 8)
    assert 0 <= uv_mesh.gutter < 8
    with pytest.raises(InputError, match="texture_size"):
        unwrap_mesh(ragged, 16, 1)


def test_faces_without_area_are_harmless() -> None:
    box = trimesh.creation.box()
    vertices = torch.tensor([*box.vertices.tolist(), [0.5, 0.5, 0.0], [2.0, 2, 2], [2.0, 2, 2], [2.0, 2, 2]]).float()
    faces = torch.tensor([*box.faces.tolist(), [7, 8, 6], [9, 10, 11]])
    uv_mesh = unwrap_mesh(Mesh(vertices, faces), 64, 2)
    assert uv_mesh.uv.isfinite().all()
    assert len(uv_mesh.mesh.faces) == len(faces)


def test_a_colour_field_that_is_not_finite_is_named() -> None:
    mesh = lopsided()
    texels = texels_of(mesh, unwrap_mesh(mesh, 64, 1), 64)
    with pytest.raises(InputError, match="colour field is not finite"):
        bake_texture(lambda points, normals: points / 0, texels)
