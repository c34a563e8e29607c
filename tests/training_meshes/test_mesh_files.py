"""Meshes of users' own files."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from packed_meshes import SEED, open_meshes, same
from PIL import Image

from liftstudio.cameras import orbit_cameras
from liftstudio.errors import InputError
from liftstudio.priors.training.meshes.files import FACES, read_file
from liftstudio.priors.training.meshes.objects import pose
from liftstudio.priors.training.meshes.packs import StoredMesh
from liftstudio.priors.training.meshes.rendering import Lighting, render


def as_trimesh(mesh: StoredMesh, suffix: str) -> trimesh.Trimesh:
    vertices = mesh.vertices[:, [1, 2, 0]] if suffix == ".glb" else mesh.vertices
    image = Image.fromarray(mesh.palette[mesh.texels])
    uv = mesh.uv * [1, -1] + [0, 1]
    if suffix == ".ply":
        size = np.array(mesh.texels.shape[::-1])
        column, row = (mesh.uv * size).astype(int).clip(0, size - 1).T
        colors = mesh.palette[mesh.texels[row, column]]
        return trimesh.Trimesh(vertices, mesh.faces, process=False, vertex_colors=colors)
    kinds = {".glb": {"baseColorTexture": image}, ".obj": {"image": image}}
    make = trimesh.visual.material.PBRMaterial if suffix == ".glb" else trimesh.visual.material.SimpleMaterial
    visual = trimesh.visual.TextureVisuals(uv=uv, material=make(**kinds[suffix]))
    return trimesh.Trimesh(vertices, mesh.faces, process=False, visual=visual)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_files_look_like_the_meshes_they_were_written_from(
    meshes: list[StoredMesh], suffix: str, tmp_path: Path
) -> None:
    even = Lighting(np.ones(3), np.zeros((0, 3)), np.zeros((0, 3)))
    cameras = orbit_cameras(torch.tensor([30.0, 200.0]), torch.tensor([20.0, -10.0]), 3.6, 36, 64, 64)
    for mesh in meshes[:3]:
        path = tmp_path / mesh.name / f"shape{suffix}"
        path.parent.mkdir()
        as_trimesh(mesh, suffix).export(path)
        read = read_file(path, "shape")
        assert read.texels.dtype == np.uint8 and len(read.palette) <= 256 and read.uv.min() >= 0 and read.uv.max() <= 1
        wanted, found = (render(pose(each), cameras, even) for each in (mesh, read))
        assert (wanted.alpha - found.alpha).abs().mean() < 0.003
        off = 0.012 if suffix == ".ply" and len(mesh.texels) > 1 else 0.006  # a colour for each vertex tells less
        assert (wanted.rgb - found.rgb).abs().mean() < off


def test_a_large_file_becomes_small(tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(5)
    half = ball.vertices[:, 0] > 0
    ball.visual.vertex_colors = np.where(half[:, None], [250, 10, 10], [10, 10, 250]).astype(np.uint8)
    ball.export(tmp_path / "ball.ply")
    read = read_file(tmp_path / "ball.ply", "ball")
    assert 1000 < len(read.faces) <= 1.1 * FACES < len(ball.faces)
    even = Lighting(np.ones(3), np.zeros((0, 3)), np.zeros((0, 3)))
    images = render(pose(read), orbit_cameras(torch.tensor([0.0, 180.0]), torch.zeros(2), 5.0, 33.8, 32, 32), even).rgb
    assert images[0, 16, 16, 0] > 0.9 > 0.1 > images[0, 16, 16, 2] and images[1, 16, 16, 2] > 0.9


def test_a_folder_of_files_is_trained_on_without_catalogue(
    meshes: list[StoredMesh], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "mine"
    for number, mesh in enumerate(meshes[:4]):
        path = folder / str(number) / f"{mesh.name}.glb"
        path.parent.mkdir(parents=True)
        as_trimesh(mesh, ".glb").export(path)
    source = open_meshes(folder, objects_share=1)
    assert len(source.trained) + len(source.measured) == 4
    sample = source.training(3, 2, torch.Generator().manual_seed(SEED))
    with caplog.at_level(logging.INFO, "liftstudio"):
        again = open_meshes(folder, objects_share=1)
    assert "objects: from the cache" in caplog.text
    assert same(sample, again.training(3, 2, torch.Generator().manual_seed(SEED)))
    as_trimesh(meshes[4], ".glb").export(folder / "more.glb")
    more = open_meshes(folder)
    assert len(more.trained) + len(more.measured) == 5


def test_files_that_cannot_be_used(meshes: list[StoredMesh], tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "text.glb").write_text("no mesh")
    with pytest.raises(InputError, match=r"text\.glb: not a readable glb mesh"):
        open_meshes(tmp_path / "bad")
    points = trimesh.PointCloud(np.zeros((3, 3)))
    (tmp_path / "points").mkdir()
    points.export(tmp_path / "points" / "points.ply")
    with pytest.raises(InputError, match=r"points\.ply: "):
        open_meshes(tmp_path / "points")
    (tmp_path / "lost").mkdir()
    as_trimesh(meshes[0], ".obj").export(tmp_path / "lost" / "shape.obj")
    for pattern in ("*.png", "*.mtl"):
        (lost,) = (tmp_path / "lost").glob(pattern)
        lost.unlink()
        with pytest.raises(InputError, match=rf"shape\.obj: it names {lost.name}, which is not there"):
            open_meshes(tmp_path / "lost")
