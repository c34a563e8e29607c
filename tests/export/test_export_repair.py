"""Repair to a watertight surface, and what it says it changed."""

from pathlib import Path

import pytest
import torch
from export_shapes import lopsided, position_color
from helpers.seeds import fresh_seed
from helpers.tiny_scenes import as_trimesh

from liftstudio.data.mesh import Mesh
from liftstudio.data.mesh_io import read_mesh
from liftstudio.export import ExportConfig
from liftstudio.export.pipeline import export_mesh
from liftstudio.export.repair import Repair, watertight

SEED = fresh_seed(__name__)


def closed(mesh: Mesh) -> Repair:
    """Repair, and check that the result is one watertight surface around the volume of `lopsided`."""
    result, repair = watertight(mesh)
    surface = as_trimesh(result)
    assert surface.is_watertight and surface.is_winding_consistent and repair.watertight_after
    assert surface.volume == pytest.approx(as_trimesh(lopsided()).volume, rel=0.01)
    return repair


def chosen(probability: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(len(lopsided().faces), generator=generator) < probability


def test_a_watertight_surface_stays_as_it_is() -> None:
    result, repair = watertight(lopsided())
    assert result is lopsided()
    assert repair == Repair(True, True, 0, 0, 0, 0, 0, 0.0)


def test_holes_are_filled_and_counted() -> None:
    mesh = lopsided()
    centres = mesh.corners().mean(1)
    holes = ((centres - mesh.vertices[mesh.vertices.argmax(0)][:, None]).norm(dim=-1) < 0.12).any(0)  # three caps
    repair = closed(Mesh(mesh.vertices, mesh.faces[~holes]))
    assert (repair.watertight_before, repair.holes_filled, repair.faces_removed) == (False, 3, 0)
    assert 0 < repair.area_added < 0.1 and repair.vertices_merged == repair.faces_turned == 0


def test_a_cut_is_closed_flat() -> None:
    mesh = lopsided()
    above = mesh.faces[mesh.corners()[..., 2].mean(1) > 0]
    result, repair = watertight(Mesh(mesh.vertices, above))
    assert as_trimesh(result).is_watertight and repair.holes_filled == 1
    assert 0.2 < repair.area_added < 0.6
    assert result.vertices[result.faces.unique()][:, 2].min() > -0.1


def test_faces_that_look_inwards_are_turned() -> None:
    mesh, turned = lopsided(), chosen(0.3, torch.Generator().manual_seed(SEED))
    repair = closed(Mesh(mesh.vertices, torch.where(turned[:, None], mesh.faces.flip(1), mesh.faces)))
    assert repair.faces_turned == turned.sum() and repair.holes_filled == repair.faces_removed == 0


def test_half_of_the_faces_looking_inwards_is_decided_for_one_side() -> None:
    faces = torch.tensor([[0, 1, 2], [1, 2, 3], [0, 2, 3], [0, 1, 3]])  # two of a tetrahedron look inwards
    result, repair = watertight(Mesh(torch.cat([torch.zeros(1, 3), torch.eye(3)]), faces))
    assert as_trimesh(result).is_winding_consistent
    assert (repair.faces_turned, repair.holes_filled, repair.watertight_after) == (2, 0, True)


def test_separate_triangles_are_joined() -> None:
    """Corners that differ by rounding, as in files of text; some triangles look inwards, some are there twice."""
    mesh, generator = lopsided(), torch.Generator().manual_seed(SEED)
    corners = mesh.corners().reshape(-1, 3)
    corners = corners + 1e-6 * torch.randn(corners.shape, generator=generator)
    faces = torch.arange(len(corners)).reshape(-1, 3)
    faces = torch.where(chosen(0.2, generator)[:, None], faces.flip(1), faces)
    repair = closed(Mesh(corners, torch.cat([faces, faces[:20]])))
    assert repair.vertices_merged == len(corners) - len(mesh.vertices)
    assert repair.faces_removed == 20 and repair.holes_filled == 0


@pytest.mark.parametrize("seed", range(3))
def test_ragged_surfaces_become_watertight(seed: int) -> None:
    mesh = lopsided(24, 0.03, seed)
    kept = torch.rand(len(mesh.faces), generator=torch.Generator().manual_seed(seed)) < 0.7
    result, repair = watertight(Mesh(mesh.vertices, mesh.faces[kept]))
    assert as_trimesh(result).is_watertight and repair.watertight_after


def test_the_export_is_closed_and_says_what_was_done(tmp_path: Path) -> None:
    mesh = lopsided()
    bowl = Mesh(mesh.vertices, mesh.faces[mesh.corners()[..., 2].mean(1) > -0.1])
    open_report = export_mesh(bowl, position_color, tmp_path, ExportConfig(formats=["ply"]))
    assert not open_report["watertight"] and "repair" not in open_report
    report = export_mesh(bowl, position_color, tmp_path, ExportConfig(formats=["ply"], repair=True, target_faces=400))
    assert report["watertight"] and as_trimesh(read_mesh(tmp_path / "mesh.ply")).is_watertight
    assert report["repair"]["holes_filled"] == 1 and not report["repair"]["watertight_before"]
    assert report["faces_before_decimation"] == len(bowl.faces) + report["repair"]["faces_added"]
