import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from export_shapes import lopsided, position_color, read_glb
from helpers.tiny_scenes import as_trimesh, from_trimesh
from PIL import Image
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.mesh import Mesh
from liftstudio.export import ExportConfig, check_export
from liftstudio.export.asset import Asset, Skin
from liftstudio.export.bake import bake_texture, surface_texels
from liftstudio.export.cleanup import vertex_normals
from liftstudio.export.pipeline import export_mesh
from liftstudio.export.placement import Placement
from liftstudio.export.unwrap import unwrap_mesh
from liftstudio.export.writers import write_glb, write_obj, write_ply

CONFIG = ExportConfig(formats=["glb", "obj", "ply"], texture_size=512, target_faces=2000)


@dataclasses.dataclass
class Raw:
    """A textured mesh as in its file. Image row 0 is the top; st [V, 2] in [0, 1] runs right and down."""

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    st: np.ndarray
    image: np.ndarray


def raw_glb(path: Path) -> Raw:
    """Read a GLB without trimesh; vertices are turned back to z up."""
    tree, values = read_glb(path)
    material = tree["materials"][tree["meshes"][0]["primitives"][0]["material"]]["pbrMetallicRoughness"]
    assert material["metallicFactor"] == 0
    assert material["roughnessFactor"] == 1
    image = np.asarray(Image.open(io.BytesIO(values[f"image{material['baseColorTexture']['index']}"].tobytes())))
    vertices, normals = (values[name][:, [0, 2, 1]] * [1, -1, 1] for name in ("POSITION", "NORMAL"))
    return Raw(vertices, values["indices"].reshape(-1, 3).astype(int), normals, values["TEXCOORD_0"], image)


def raw_obj(path: Path) -> Raw:
    """Read an OBJ line by line; its second texture coordinate runs up."""
    rows: dict[str, list] = {}
    for line in filter(None, path.read_text().splitlines()):
        key, *values = line.split()
        rows.setdefault(key, []).append(values)
    material = dict(line.split(maxsplit=1) for line in (path.parent / rows["mtllib"][0][0]).read_text().splitlines())
    corners = np.array([[corner.split("/") for corner in face] for face in rows["f"]], int) - 1
    assert (corners == corners[..., :1]).all()
    u, v = np.array(rows["vt"], float).T
    image = np.asarray(Image.open(path.parent / material["map_Kd"]))
    vertices, normals = (np.array(rows[key], float) for key in ("v", "vn"))
    return Raw(vertices, corners[..., 0], normals, np.stack([u, 1 - v], 1), image)


def sample(raw: Raw, count: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Return random surface points and the bilinear texture there, in [0, 1]."""
    generator = np.random.default_rng(0)
    a, b, c = raw.vertices[raw.faces].astype(float).transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    face = generator.choice(len(area), count, p=area / area.sum())
    weights = generator.dirichlet([1, 1, 1], count)[:, :, None]
    points = (raw.vertices[raw.faces[face]] * weights).sum(1)
    height, width = raw.image.shape[:2]
    xy = (raw.st[raw.faces[face]] * weights).sum(1) * [width, height] - 0.5
    corner = np.floor(xy).astype(int)
    (fx, fy), color = (xy - corner).T, 0.0
    for dx, dy, weight in ((0, 0, (1 - fx) * (1 - fy)), (1, 0, fx * (1 - fy)), (0, 1, (1 - fx) * fy), (1, 1, fx * fy)):
        texel = raw.image[(corner[:, 1] + dy) % height, (corner[:, 0] + dx) % width, :3]
        color = color + weight[:, None] * texel / 255
    return points, color


def export(folder: Path, mesh: Mesh | None = None, config: ExportConfig = CONFIG, **more) -> dict:
    return export_mesh(mesh or lopsided(), position_color, folder, config, **more)


@pytest.mark.parametrize(("name", "reader"), [("mesh.glb", raw_glb), ("mesh.obj", raw_obj)])
def test_the_texture_lies_right_on_the_surface(tmp_path: Path, name: str, reader) -> None:
    export(tmp_path)
    points, color = sample(reader(tmp_path / name))
    error = np.abs(color - position_color(torch.from_numpy(points)).numpy()).max(1)
    # A texel is about 0.006 wide here, half of that in colour; at a seam the nearest texel stands in for the surface.
    assert error.max() < 0.02
    assert error.mean() < 0.003


def test_vertex_colours_and_axes_of_the_ply(tmp_path: Path) -> None:
    export(tmp_path)
    mesh = trimesh.load(tmp_path / "mesh.ply", process=False)
    expected = position_color(torch.from_numpy(np.asarray(mesh.vertices))).numpy()
    assert np.abs(mesh.visual.vertex_colors[:, :3] / 255 - expected).max() <= 0.5 / 255 + 1e-6


def test_gltf_is_y_up_and_not_mirrored(tmp_path: Path) -> None:
    report = export(tmp_path)
    low, high = np.array(report["bounding_box"]["min"]), np.array(report["bounding_box"]["max"])
    glb = trimesh.load_mesh(tmp_path / "mesh.glb", process=False)
    np.testing.assert_allclose(glb.bounds, [[low[0], low[2], -high[1]], [high[0], high[2], -low[1]]], atol=1e-6)
    for name in ("mesh.glb", "mesh.obj", "mesh.ply"):
        assert trimesh.load_mesh(tmp_path / name, process=False).volume > 0  # a reflection would turn it inside out
    assert report["up_axis"] == {"glb": "y", "obj": "z", "ply": "z"}


def test_files_read_again_equal_what_was_written(tmp_path: Path) -> None:
    mesh = lopsided()
    uv_mesh = unwrap_mesh(mesh, 256, 4)
    normals = vertex_normals(mesh)[uv_mesh.source]
    texture = bake_texture(lambda points, normals: position_color(points), surface_texels(uv_mesh, normals, 256))
    colors = np.random.default_rng(0).integers(0, 256, (len(mesh.vertices), 3), dtype=np.uint8)
    asset = Asset("it", mesh, vertex_normals(mesh), colors, Skin(uv_mesh, normals, texture))
    for writer, reader, name, up in ((write_glb, raw_glb, "it.glb", "y"), (write_obj, raw_obj, "it.obj", "z")):
        path = writer(tmp_path / name, asset, Placement(up=up), "png")[-1]
        read = trimesh.load_mesh(path, process=False, maintain_order=True)
        turned = np.asarray(read.vertices)
        if path.suffix == ".glb":
            turned = turned[:, [0, 2, 1]] * [1, -1, 1]
        np.testing.assert_array_equal(read.faces, uv_mesh.mesh.faces)
        np.testing.assert_allclose(turned, uv_mesh.mesh.vertices, atol=1e-7)  # OBJ has eight decimals
        np.testing.assert_allclose(reader(path).normals, normals, atol=1e-6)
        np.testing.assert_allclose(read.visual.uv, uv_mesh.uv, atol=1e-7)
        material = read.visual.material
        image = material.baseColorTexture if path.suffix == ".glb" else material.image
        np.testing.assert_array_equal(np.asarray(image), texture)
    read = trimesh.load_mesh(write_ply(tmp_path / "it.ply", asset, Placement(), "png")[0], process=False)
    np.testing.assert_array_equal(np.asarray(read.vertices, np.float32), mesh.vertices)
    np.testing.assert_array_equal(read.faces, mesh.faces)
    np.testing.assert_array_equal(read.visual.vertex_colors[:, :3], colors)


def test_the_report_describes_the_export(tmp_path: Path) -> None:
    steps: list[tuple[str, float]] = []
    speck = trimesh.creation.icosphere(1, radius=0.02).apply_translation([0, 0, 0.9])
    mesh = from_trimesh(trimesh.util.concatenate([as_trimesh(lopsided(40)), speck]))
    report = export(tmp_path, mesh, progress=lambda name, fraction: steps.append((name, fraction)))
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["faces"] == pytest.approx(CONFIG.target_faces, rel=0.02)
    assert report["watertight"] is True
    assert report["components"] == 1
    assert report["faces_before_decimation"] == len(lopsided(40).faces)
    assert report["dropped"]["components"] == 1
    assert report["dropped"]["faces"] == len(speck.faces)
    assert report["gutter"] == 4
    assert report["bounding_box"]["max"][2] < 0.8
    on_disk = {path.name: path.stat().st_size for path in tmp_path.iterdir() if path.name != "report.json"}
    assert report["files"] == on_disk
    assert set(on_disk) == {"mesh.glb", "mesh.obj", "mesh.mtl", "mesh.png", "mesh.ply"}
    names = list(dict.fromkeys(name for name, _ in steps))
    assert names == ["clean up", "unwrap", "bake", "write"]
    assert all(0 <= fraction <= 1 for _, fraction in steps)


def test_the_shaded_colour_is_written_beside_the_albedo(tmp_path: Path) -> None:
    def shaded(points: Tensor, normals: Tensor) -> Tensor:
        assert (normals.norm(dim=-1) - 1).abs().max() < 1e-5
        return position_color(points) * (0.6 + 0.4 * normals[:, 2:])

    report = export(tmp_path, config=dataclasses.replace(CONFIG, shaded=True), shaded=shaded)
    assert {"mesh_shaded.glb", "mesh_shaded.obj", "mesh_shaded.mtl", "mesh_shaded.png", "mesh_shaded.ply"} < set(
        report["files"]
    )
    plain, lit = raw_obj(tmp_path / "mesh.obj"), raw_obj(tmp_path / "mesh_shaded.obj")
    assert (lit.image <= plain.image).all()
    assert lit.image.mean() < 0.9 * plain.image.mean()


def test_same_bytes_on_repeat_and_any_folder_name(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two words, ümläut #1"]
    for folder in folders:
        export(folder)
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes(), path.name
    assert raw_obj(folders[1] / "mesh.obj").image.shape == (512, 512, 3)


def test_ply_alone_needs_no_texture(tmp_path: Path) -> None:
    report = export(tmp_path, config=dataclasses.replace(CONFIG, formats=["ply"]))
    assert set(report["files"]) == {"mesh.ply"}
    assert "charts" not in report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formats": []}, r"export\.formats"),
        ({"formats": ["glb", "glb"]}, r"each once"),
        ({"texture_size": 8}, r"export\.texture_size: expected 16 to 16384, got 8"),
        ({"min_component_area": float("nan")}, r"export\.min_component_area"),
        ({"gutter": 100}, r"export\.gutter: expected 0 to 64, got 100"),
        ({"shaded": True}, r"export\.shaded"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_written(tmp_path: Path, change: dict, message: str) -> None:
    config = dataclasses.replace(CONFIG, **change)
    with pytest.raises(InputError, match=message):
        export(tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()
    if "shaded" not in change:
        with pytest.raises(InputError, match=message):
            check_export(config)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)), "empty"),
        (
            Mesh(torch.tensor([[0.0, 0, 0], [1, 0, float("nan")], [0, 1, 0]]), torch.tensor([[0, 1, 2]])),
            "1 of its 3 vert",
        ),
        (Mesh(torch.tensor([[0.0, 0, 0], [1, 0, float("inf")], [0, 1, 0]]), torch.tensor([[0, 1, 2]])), "diverged"),
        (Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]])), "area of 0"),
    ],
)
def test_an_invalid_surface_is_reported(tmp_path: Path, mesh: Mesh, message: str) -> None:
    with pytest.raises(InputError, match=message):
        export(tmp_path / "out", mesh)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", [4, 50])
def test_the_smallest_meshes_export(tmp_path: Path, target: int) -> None:
    tetrahedron = trimesh.creation.icosphere(0)
    report = export(tmp_path, from_trimesh(tetrahedron), ExportConfig(texture_size=16, gutter=1, target_faces=target))
    assert 4 <= report["faces"] <= 20
