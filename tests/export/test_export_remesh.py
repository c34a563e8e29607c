"""Remeshing to even quads and triangles; what of it the files keep."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from export_shapes import lopsided, position_color
from helpers.tiny_scenes import as_trimesh, from_trimesh

from liftstudio.core.errors import InputError
from liftstudio.core.logs import kept_warnings
from liftstudio.data.mesh import Mesh
from liftstudio.data.mesh_io import read_mesh
from liftstudio.export import ExportConfig, check_export
from liftstudio.export.pipeline import export_mesh
from liftstudio.export.polygons import face_corners
from liftstudio.export.remesh import remesh_report, remeshed

CONFIG = ExportConfig(formats=["ply"], remesh="quads", edge_length=0.1)


@pytest.fixture
def installed() -> None:
    pytest.importorskip("pyinstantmeshes", reason="remeshing needs pyinstantmeshes (the remesh extra)")


def test_halves_of_quads_are_put_together() -> None:
    faces = np.array([[9, 8, 7], [0, 1, 2], [0, 2, 3], [0, 3, 4], [5, 6, 7]])
    quads, triangles = (faces.ravel()[corners] for corners in face_corners(faces, quads=True))
    assert quads.tolist() == [[0, 1, 2, 3]]
    assert triangles.tolist() == [[9, 8, 7], [0, 3, 4], [5, 6, 7]]
    assert np.array_equal(faces.ravel()[face_corners(faces, quads=False)[0]], faces)


def test_the_report_measures_edges_and_distances() -> None:
    """Of a cube with edges of 1, whose quads have diagonals; the other cube is 0.1 away on all sides."""
    square = np.array([[0, 3, 2, 1], [4, 5, 6, 7], [0, 1, 5, 4], [2, 3, 7, 6], [1, 2, 6, 5], [0, 4, 7, 3]])
    corners = torch.tensor(
        [[x, y, z] for z in (-0.5, 0.5) for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))]
    )
    cube = Mesh(corners, torch.from_numpy(square[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)))
    report = remesh_report(cube, Mesh(1.2 * corners, cube.faces), "quads", 0.9)
    assert report["edge_length"] == {"target": 0.9, "mean": pytest.approx(1), "std": pytest.approx(0, abs=1e-6)}
    assert report["quads"] == 1
    assert report["distance"]["max"] == pytest.approx(0.03**0.5, abs=0.02)  # from the outer cube's corners
    assert 0.1 <= report["distance"]["mean"] < 0.12
    report = remesh_report(cube, cube, "triangles", 0.9)
    assert report["quads"] == 0 and report["edge_length"]["mean"] == pytest.approx((12 + 6 * 2**0.5) / 18)
    assert report["distance"]["max"] < 1e-6


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("kind", ["quads", "triangles"])
def test_edges_have_the_wanted_length_and_the_surface_stays(kind: str) -> None:
    original = lopsided(48)
    mesh = remeshed(original, kind, 0.08)
    report = remesh_report(mesh, original, kind, 0.08)
    length = report["edge_length"]
    assert length["mean"] == pytest.approx(0.08, rel=0.06)
    assert length["std"] < 0.2 * length["mean"]
    assert report["quads"] == pytest.approx(float(kind == "quads"), abs=0.01)
    assert report["distance"]["mean"] < 0.03 * 0.08  # chords of a smooth surface leave it by far less than their length
    surface = as_trimesh(mesh)
    assert surface.is_watertight and surface.is_winding_consistent
    # Chords of length L cut up to L^2 / 8R off a surface of radius R, here about 0.4: 3 L^2 / 8R^2 of its volume.
    assert surface.volume == pytest.approx(as_trimesh(original).volume, rel=3 * 0.08**2 / (8 * 0.4**2))
    again = remeshed(original, kind, 0.08)
    assert torch.equal(again.vertices, mesh.vertices) and torch.equal(again.faces, mesh.faces)


@pytest.mark.usefixtures("installed")
def test_files_keep_quads(tmp_path: Path) -> None:
    UsdGeom = pytest.importorskip("pxr.UsdGeom", reason="USDZ needs usd-core (the usd extra)")  # noqa: N806
    from pxr import Usd

    config = dataclasses.replace(CONFIG, formats=["ply", "obj", "usdz", "glb"], texture_size=128)
    report = export_mesh(lopsided(), position_color, tmp_path, config)
    quads = report["faces"] // 2
    assert report["remesh"]["quads"] > 0.99 and report["watertight"]
    lines = (tmp_path / "mesh.obj").read_text().splitlines()
    sizes = [len(line.split()) - 1 for line in lines if line.startswith("f ")]
    assert sum(sizes) - 2 * len(sizes) == report["faces"]  # an n-gon is n - 2 triangles
    assert sizes.count(4) > 0.9 * quads  # all but those on seams
    stage = Usd.Stage.Open(str(tmp_path / "mesh.usdz"))
    (mesh,) = [UsdGeom.Mesh(prim) for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)]
    assert list(mesh.GetFaceVertexCountsAttr().Get()).count(4) == sizes.count(4)
    faces = int((tmp_path / "mesh.ply").read_bytes().split(b"element face ")[1].split(b"\n")[0])
    assert quads <= faces < 1.01 * quads
    world = read_mesh(tmp_path / "mesh.ply")
    for name in ("obj", "glb"):
        other = read_mesh(tmp_path / f"mesh.{name}")
        assert as_trimesh(other).is_watertight, name
        assert as_trimesh(other).volume == pytest.approx(as_trimesh(world).volume, rel=1e-5), name
    loaded = trimesh.load_mesh(tmp_path / "mesh.ply", process=False)
    wanted = position_color(torch.from_numpy(np.asarray(loaded.vertices))).numpy()
    assert np.abs(loaded.visual.vertex_colors[:, :3] / 255 - wanted).max() < 0.05  # of the surface before


@pytest.mark.usefixtures("installed")
def test_levels_of_detail_have_edge_lengths_of_their_own(tmp_path: Path) -> None:
    config = ExportConfig(formats=["stl"], remesh="triangles", faces=[1200, 400], longest_side_mm=10.0)
    report = export_mesh(lopsided(), position_color, tmp_path, config)
    for level, faces in zip([report, *report["levels"]], config.faces, strict=True):
        assert level["faces"] == pytest.approx(faces, rel=0.1)


@pytest.mark.usefixtures("installed")
def test_lost_pieces_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    speck = trimesh.creation.icosphere(1, radius=0.01).apply_translation([2, 0, 0])
    both = from_trimesh(trimesh.util.concatenate([trimesh.creation.icosphere(3), speck]))
    remeshed(both, "triangles", 0.3)
    assert "1 of 2 separate pieces are too small for an edge length of 0.3" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_length": -0.1}, r"export\.edge_length: expected 0\.002 to 1, or 0, got -0\.1"),
        ({"edge_length": 1e-4}, r"export\.edge_length: expected 0\.002 to 1, or 0"),
        ({"remesh": "none"}, r"export\.edge_length: needs export\.remesh"),
        ({"faces": [500, 100]}, r"export\.edge_length: contradicts export\.faces"),
    ],
)
def test_impossible_options_are_named(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_export(dataclasses.replace(CONFIG, **change))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_length": 0.5}, "export.edge_length: 0.5 is not possible for a surface of this size; 0.19"),
        ({"edge_length": 0.0, "target_faces": 10}, "for a surface of this size; 0.19"),
    ],
)
def test_the_nearest_edge_length_is_taken_that_suits_the_surface(tmp_path: Path, change: dict, message: str) -> None:
    with kept_warnings() as warnings:
        report = export_mesh(lopsided(), position_color, tmp_path, dataclasses.replace(CONFIG, **change))
    assert any(message in text for text in warnings) and report["remesh"]["edge_length"]["target"] < 0.2


def test_a_missing_package_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"export\.remesh: needs the remesh extra.*liftstudio\[remesh\]"):
        check_export(CONFIG)


@pytest.mark.usefixtures("installed")
def test_a_crash_is_an_error_of_this_process() -> None:
    point = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    with pytest.raises((RuntimeError, InputError)):
        remeshed(point, "quads", 0.1)
