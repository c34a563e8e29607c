"""Meshes of users' own files."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from helpers.wide_gamut import encoded, rgb_profile
from packed_meshes import SEED, open_meshes, same
from PIL import Image

from liftstudio.core.errors import InputError
from liftstudio.data.cameras import orbit_cameras
from liftstudio.training.meshes.files import FACES, read_file
from liftstudio.training.meshes.packs import StoredMesh
from liftstudio.training.meshes.posing import pose
from liftstudio.training.meshes.rendering import Lighting, render


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
        off = 0.012 if suffix == ".ply" and len(mesh.texels) > 1 else 0.006  # one colour per vertex has less detail
        assert (wanted.rgb - found.rgb).abs().mean() < off


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coarser colours: nearly all of the time goes into the points at which they are sampled."""
    monkeypatch.setattr("liftstudio.training.meshes.files._SAMPLES", 5000)


@pytest.fixture
def obj(meshes: list[StoredMesh], tmp_path: Path) -> Path:
    """Write a textured OBJ beside material.mtl and material_0.png."""
    path = tmp_path / "one" / "shape.obj"
    path.parent.mkdir()
    as_trimesh(meshes[0], ".obj").export(path)
    return path


def test_a_mesh_far_from_its_origin_is_read_without_loss(obj: Path) -> None:
    wanted = read_file(obj, "shape")
    words = [line.split() for line in obj.read_text().splitlines()]
    far = (0.0, 451230.25, 5411873.5, 120.0)
    for row in words:
        if row and row[0] == "v":
            row[1:4] = [f"{float(value) + shift:.9f}" for value, shift in zip(row[1:4], far[1:], strict=True)]
    obj.write_text("\n".join(" ".join(row) for row in words))
    found = read_file(obj, "shape")
    # Rounding may change the order in which edges collapse; the shape is the same.
    assert abs(len(found.faces) - len(wanted.faces)) < 0.02 * len(wanted.faces)
    np.testing.assert_allclose(found.vertices.min(0), wanted.vertices.min(0), atol=2e-3)
    np.testing.assert_allclose(found.vertices.max(0), wanted.vertices.max(0), atol=2e-3)


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def same_mesh(a: StoredMesh, b: StoredMesh) -> bool:
    return np.array_equal(a.palette[a.texels], b.palette[b.texels]) and np.array_equal(a.vertices, b.vertices)


@pytest.mark.parametrize(
    "setting",
    ["material_0.png", "-s 1 1.000 1 -o 0 0.0 -clamp on material_0.png", "a red one.png", "-mm 0 1  a red one.png",
     "../shared textures/a red one.png", "..\\shared textures\\a red one.png", "Material_0.PNG"],
)  # fmt: skip
@pytest.mark.usefixtures("few_samples")
def test_textures_as_materials_name_them(obj: Path, setting: str) -> None:
    wanted = read_file(obj, "shape")
    assert len(np.unique(wanted.palette[wanted.texels].reshape(-1, 3), axis=0)) > 3
    if "red" in setting:
        texture = obj.parent / (setting.replace("\\", "/") if ".." in setting else "a red one.png")
        texture.parent.mkdir(exist_ok=True)
        (obj.parent / "material_0.png").rename(texture)
    change(obj.parent / "material.mtl", "map_Kd material_0.png", f"  map_Kd\t{setting} ")
    assert same_mesh(read_file(obj, "shape"), wanted)


@pytest.mark.parametrize(
    "line",
    ["mtllib other.mtl material.mtl", "mtllib other.mtl\nmtllib the materials.mtl",
     "mtllib other.mtl the materials.mtl", "mtllib the materials.mtl other.mtl"],
)  # fmt: skip
@pytest.mark.usefixtures("few_samples")
def test_materials_of_several_libraries(obj: Path, line: str) -> None:
    wanted = read_file(obj, "shape")
    (obj.parent / "other.mtl").write_text("newmtl other\nKd 1 0 0\n")
    if "the materials" in line:
        (obj.parent / "material.mtl").rename(obj.parent / "the materials.mtl")
    change(obj, "mtllib material.mtl", line)
    assert same_mesh(read_file(obj, "shape"), wanted)


@pytest.mark.usefixtures("few_samples")
def test_textures_in_wide_colour_spaces(obj: Path) -> None:
    texture = obj.parent / "material_0.png"
    wanted = read_file(obj, "shape")
    wide = encoded(np.asarray(Image.open(texture).convert("RGB")) / 255, "p3")
    Image.fromarray(wide).save(texture, icc_profile=rgb_profile("p3"))
    found = read_file(obj, "shape")
    wanted_texels, texels = (each.palette[each.texels].astype(float) for each in (wanted, found))
    assert np.abs(texels - wanted_texels).mean() < 1.5  # of 255; without the profile some colours are 20 off


@pytest.mark.parametrize(
    ("setting", "message"),
    [("-s 1 1 1 lost.png", "shape.obj: it refers to -s 1 1 1 lost.png, which does not exist"),
     ("-o 0 0 -s 2 2 material_0.png", r"shape.obj: scaling or moving a texture is not supported: material_0.png \(-o"),
     ("material.mtl", "material.mtl: not a readable image")],
)  # fmt: skip
def test_textures_that_cannot_be_used(obj: Path, setting: str, message: str) -> None:
    change(obj.parent / "material.mtl", "map_Kd material_0.png", f"map_Kd {setting}")
    with pytest.raises(InputError, match=rf"^{obj.parent}/{message}"):
        read_file(obj, "shape")


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


@pytest.mark.usefixtures("few_samples")
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
        with pytest.raises(InputError, match=rf"shape\.obj: it refers to {lost.name}, which does not exist"):
            open_meshes(tmp_path / "lost")
