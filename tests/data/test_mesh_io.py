from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from liftstudio.core.errors import InputError
from liftstudio.data import mesh_io
from liftstudio.data.mesh_io import read_mesh

TRIANGLE = b"v 0 0 0\nv 1 0 0\nv 0 1 0\n"
PLY_HEAD = b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
PLY_DOUBLES = [
    *("ply", "format ascii 1.0", "element vertex 8", *(f"property double {axis}" for axis in "xyz")),
    *("element face 12", "property list uchar int vertex_indices", "end_header"),
]
PLY_FACES = b"element face 1\nproperty list uchar int vertex_indices\n"
PLY_POINTS = b"end_header\n0 0 0\n1 0 0\n0 1 0\n"


@pytest.mark.parametrize("suffix", mesh_io.SUFFIXES)
def test_written_by_trimesh_and_read(suffix: str, tmp_path: Path) -> None:
    written = trimesh.creation.box((0.4, 0.6, 0.8))
    written.apply_translation((0.1, 0.2, 0.3))
    written.export(tmp_path / f"mesh{suffix}")
    mesh = read_mesh(tmp_path / f"mesh{suffix}")
    assert mesh.vertices.dtype == torch.float32 and mesh.faces.dtype == torch.int64
    assert mesh.vertices.shape == (8, 3) and mesh.faces.shape == (12, 3)
    low, high = torch.tensor([-0.1, -0.1, -0.1]), torch.tensor([0.3, 0.5, 0.7])
    if suffix == ".glb":  # y-up in the file: +y becomes +z, +z becomes -y
        low, high = torch.tensor([-0.1, -0.7, -0.1]), torch.tensor([0.3, 0.1, 0.5])
    assert torch.allclose(mesh.vertices.amin(0), low, atol=1e-6)
    assert torch.allclose(mesh.vertices.amax(0), high, atol=1e-6)
    volume = (mesh.corners()[:, 0] * mesh.face_area_vectors()).sum() / 3
    assert volume.item() == pytest.approx(0.4 * 0.6 * 0.8, rel=1e-5)  # closed, and wound outwards


def test_a_scene_becomes_one_mesh_in_place(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    for x in (0.0, 5.0):
        scene.add_geometry(trimesh.creation.box(), transform=trimesh.transformations.translation_matrix((x, 0, 0)))
    scene.export(tmp_path / "scene.glb")
    mesh = read_mesh(tmp_path / "scene.glb")
    assert len(mesh.faces) == 24
    assert mesh.vertices[:, 0].aminmax() == (-0.5, 5.5)


@pytest.mark.parametrize("suffix", [".obj", ".off", ".ply", ".glb"])
def test_vertices_far_from_the_origin(suffix: str, tmp_path: Path) -> None:
    """Coordinates of a map, in metres, of an object of 10 cm; a GLB has them in a node's matrix."""
    far = np.array([451230.25, 5411873.5, 120.0])
    box = trimesh.creation.box((0.1, 0.1, 0.1))
    if suffix == ".glb":
        scene = trimesh.Scene()
        scene.add_geometry(box, transform=trimesh.transformations.translation_matrix(far[[0, 2, 1]] * [1, 1, -1]))
        scene.export(tmp_path / "mesh.glb")
    else:
        rows = [" ".join(f"{value:.3f}" for value in row) for row in box.vertices + far]
        if suffix == ".obj":
            lines = [*(f"v {row}" for row in rows), *("f {} {} {}".format(*(face + 1)) for face in box.faces)]
        else:
            head = ["OFF", "8 12 0"] if suffix == ".off" else PLY_DOUBLES
            lines = [*head, *rows, *("3 {} {} {}".format(*face) for face in box.faces)]
        (tmp_path / f"mesh{suffix}").write_text("\n".join([*lines, ""]))
    mesh = read_mesh(tmp_path / f"mesh{suffix}", torch.float64)
    assert mesh.vertices.dtype == torch.float64 and mesh.vertices.shape == (8, 3)
    low, high = mesh.vertices.aminmax(dim=0)
    torch.testing.assert_close((low + high) / 2, torch.tensor(far), atol=1e-6, rtol=0)
    torch.testing.assert_close(high - low, torch.full((3,), 0.1, dtype=torch.float64), atol=1e-6, rtol=0)


def test_obj_with_polygons_seams_and_missing_material(tmp_path: Path) -> None:
    path = tmp_path / "quad.OBJ"
    path.write_bytes(
        b"mtllib none.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nvt 1 1\nusemtl none\n"
        b"f 1/1 2/1 3/1 4/1\nf 1/2 5/2 2/2\n"
    )
    mesh = read_mesh(path)
    assert mesh.vertices.shape == (5, 3) and mesh.faces.shape == (3, 3)


BAD = {
    "empty.obj": (b"", "the file is empty"),
    "text.obj": (b"hello\n", "no triangles"),
    "index.obj": (TRIANGLE + b"f 1 2 9\n", "not a readable obj mesh"),
    "negative.obj": (TRIANGLE + b"f 1 2 -9\n", "not a readable obj mesh"),
    "nan.obj": (b"v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "a vertex is not finite"),
    "huge.obj": (b"v 0 0 1e300\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "a vertex is not finite"),
    "points.obj": (TRIANGLE, "no triangles"),
    "binary.obj": (bytes(range(256)), "not a readable obj mesh|no triangles"),  # by packages that guess encodings
    "points.ply": (PLY_HEAD + PLY_POINTS, "no triangles"),
    "index.ply": (PLY_HEAD + PLY_FACES + PLY_POINTS + b"3 0 1 7\n", "a vertex that does not exist"),
    "long.ply": (
        PLY_HEAD.replace(b"vertex 3", b"vertex 9999999999") + PLY_FACES + PLY_POINTS,
        "no triangles",
    ),
    "text.ply": (b"hello\n", "not a readable ply mesh"),
    "short.off": (b"OFF\n3 1 0\n0 0", "not a readable off mesh"),
    "zeros.stl": (bytes(84), "no triangles"),
    "text.stl": (b"hello\n", "stl"),
    "version.glb": (b"glTF" + bytes(20), "not a readable glb mesh"),
    "archive.zip": (b"PK", "expected a mesh file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_give_one_line_that_names_them(name: str, tmp_path: Path) -> None:
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        read_mesh(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".glb", ".stl", ".ply"])
def test_truncated_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"mesh{suffix}"
    trimesh.creation.icosphere().export(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=f"mesh{suffix}"):
        read_mesh(path)


@pytest.mark.parametrize("suffix", [".obj", ".glb", ".ply", ".stl"])
def test_pointers_and_pages_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"mesh{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match=r"expected a mesh, found a Git LFS pointer of 43 bytes"):
        read_mesh(path)
    path.write_text("<!DOCTYPE html>")
    with pytest.raises(InputError, match="expected a mesh, found an HTML page"):
        read_mesh(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.obj").mkdir()
    for name in ("none.obj", "folder.obj"):
        with pytest.raises(InputError, match=f"{name}: no such file"):
            read_mesh(tmp_path / name)


def test_caps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mesh.stl"
    trimesh.creation.icosphere().export(path)
    monkeypatch.setattr(mesh_io, "MAX_FACES", 100)
    with pytest.raises(InputError, match="1280 faces are above the limit of 100"):
        read_mesh(path)
    monkeypatch.setattr(mesh_io, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="MB"):
        read_mesh(path)
