import numpy as np
import pytest
import torch
import trimesh
from export_shapes import lopsided
from helpers.seeds import fresh_seed
from helpers.tiny_scenes import as_trimesh, from_trimesh

from liftstudio.data.mesh import Mesh
from liftstudio.export.cleanup import decimate, drop_floaters, face_components, repaired, vertex_normals

SEEDS = [fresh_seed(__name__) for _ in range(2)]


def test_floaters_go_and_large_pieces_stay() -> None:
    big, middle = trimesh.creation.icosphere(3), trimesh.creation.icosphere(2, radius=0.5)
    specks = [trimesh.creation.icosphere(1, radius=0.05) for _ in range(3)]
    for shift, part in enumerate((middle, *specks), start=1):
        part.apply_translation([2.0 * shift, 0, 0])
    mesh = from_trimesh(trimesh.util.concatenate([*specks[:1], big, *specks[1:], middle]))
    kept, dropped = drop_floaters(mesh, 0.02)
    assert face_components(kept)[0] == 2
    assert len(kept.faces) == len(big.faces) + len(middle.faces)
    assert (dropped.components, dropped.faces) == (3, 3 * len(specks[0].faces))
    assert dropped.area_fraction == pytest.approx(3 * specks[0].area / as_trimesh(mesh).area, rel=1e-5)
    assert as_trimesh(kept).volume == pytest.approx(big.volume + middle.volume, rel=1e-5)  # float32
    assert torch.equal(kept.faces.unique(), torch.arange(len(kept.vertices)))


def test_the_largest_piece_stays_whatever_its_share() -> None:
    parts = [trimesh.creation.icosphere(1, radius=1 + 0.01 * i).apply_translation([3 * i, 0, 0]) for i in range(5)]
    kept, dropped = drop_floaters(from_trimesh(trimesh.util.concatenate(parts)), 0.9)
    assert as_trimesh(kept).bounds[0, 0] > 10
    assert dropped.components == 4


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03])
def test_decimation_meets_the_target_and_stays_closed(noise: float, seed: int) -> None:
    raw, _ = drop_floaters(lopsided(64, noise, seed), 0.02)
    target = len(raw.faces) // 4
    mesh = decimate(raw, target)
    surface = as_trimesh(mesh)
    assert len(mesh.faces) == pytest.approx(target, rel=0.02)
    assert surface.is_watertight
    assert surface.is_winding_consistent
    # Quadrics of a smooth surface keep its volume to 1 %; of a rough one, they average the roughness away.
    assert surface.volume == pytest.approx(as_trimesh(raw).volume, rel=0.01 + noise)


def test_a_small_mesh_is_left_alone() -> None:
    mesh = from_trimesh(trimesh.creation.icosphere(2))
    same = decimate(mesh, 10**6)
    assert torch.equal(same.corners().sum((0, 1)), mesh.corners().sum((0, 1)))
    assert (len(same.vertices), len(same.faces)) == (len(mesh.vertices), len(mesh.faces))


def test_surfaces_that_touch_in_edges_and_points_are_parted() -> None:
    boxes = [trimesh.creation.box().apply_translation(shift) for shift in ([0, 0, 0], [1, 1, 0], [2, 2, 1], [3, 2, 2])]
    touching = trimesh.util.concatenate(boxes)
    touching.merge_vertices()
    assert not touching.is_watertight
    mesh = repaired(from_trimesh(touching))
    parted = as_trimesh(mesh)
    assert parted.is_watertight
    assert parted.is_winding_consistent
    assert parted.volume == pytest.approx(len(boxes))
    assert face_components(mesh)[0] == len(boxes)


def test_folds_and_degenerate_faces_go() -> None:
    sphere = trimesh.creation.icosphere(1)
    extra = [[0, 1, 2], [2, 1, 0], [3, 3, 4], [5, 6, 5]]
    faces = np.concatenate([extra[:2], sphere.faces, extra[2:]])
    mesh = repaired(Mesh(torch.tensor(sphere.vertices).float(), torch.tensor(faces)))
    assert len(mesh.faces) == len(sphere.faces)
    assert as_trimesh(mesh).is_watertight


def test_an_open_mesh_keeps_its_border() -> None:
    box = from_trimesh(trimesh.creation.box())
    mesh = repaired(Mesh(box.vertices, box.faces[1:]))
    assert (len(mesh.vertices), len(mesh.faces)) == (8, 11)


def test_vertex_normals_have_unit_length_even_where_faces_have_no_area() -> None:
    mesh = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 5, 0]]), torch.tensor([[0, 1, 2]]))
    assert torch.equal(vertex_normals(mesh), torch.tensor([[0.0, 0, 1]]).expand(4, 3))
