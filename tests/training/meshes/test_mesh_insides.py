"""The inside of real meshes compared with the winding number."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from packed_meshes import SEED, WIDE_RIG, iou, open_meshes, turn
from torch import Tensor

from liftstudio.data.mesh import Mesh
from liftstudio.metrics import voxels
from liftstudio.synthetic import make_object, split
from liftstudio.synthetic.draws import Draws
from liftstudio.synthetic.occupancy import occupancy
from liftstudio.training.meshes.packs import StoredMesh
from liftstudio.training.meshes.posing import pose
from liftstudio.training.meshes.solids import GRID, Solids, carve, kept_cells
from liftstudio.training.meshes.variation import varied
from liftstudio.training.solids import Solid, pack, procedural_solid, unit_frame, unpack


def sampled(count: int = 60_000) -> Tensor:
    return 1.9 * torch.rand(count, 3, generator=torch.Generator().manual_seed(SEED)) - 0.95


def exactly(obj: Any, points: Tensor, grid: int = 192) -> tuple[Tensor, np.ndarray]:
    """Return points snapped to a fine grid, and whether the winding number there is positive."""
    index = ((points / 0.95 + 1) / 2 * (grid - 1)).round().long()
    inside = occupancy(obj, grid, 0.95)[index[:, 2], index[:, 1], index[:, 0]]
    return (index / (grid - 1) * 2 - 1) * 0.95, inside.numpy()


def test_look_up_against_plain_indexing() -> None:
    random = np.random.default_rng(SEED)
    cells = random.random((16, 16, 16)) < 0.4
    assert np.array_equal(unpack(pack(cells)), cells)
    half, front = np.array([0.9, 0.5, -0.7]), 33.0
    points = sampled(5000)
    canonical = points.double().numpy() @ turn(front)  # turned by -33 degrees
    unit = canonical / half / 2 + 0.5
    within = ((unit >= 0) & (unit < 1)).all(1)
    index = (unit.clip(0, 0.9999) * 16).astype(int)
    wanted = cells[tuple(index.T)] & within
    found = Solid(lambda: pack(cells), unit_frame(front, half)).contains(points)
    assert found.dtype == torch.bool and (found.numpy() != wanted).mean() < 1e-3  # rounding at borders
    odd = torch.tensor([[float("nan"), 0, 0], [float("inf"), 0, 0], [1e30, 1e30, 1e30]])
    assert not Solid(lambda: pack(np.ones_like(cells)), unit_frame(front, half)).contains(odd).any()
    with pytest.raises(ValueError, match="points"):
        Solid(lambda: pack(cells), unit_frame(front, half)).contains(points[:, :2])


@pytest.mark.parametrize("kind", ["toy", "composite"])
def test_insides_of_procedural_objects(kind: Any) -> None:
    """Its own grid, and carving from depth maps as for any mesh, compared with the winding number."""
    scores = []
    for number in range(5):
        obj = make_object(kind, split(SEED + number, kind, "train"))
        points, inside = exactly(obj, sampled())
        own = procedural_solid(obj, 0.0).contains(points).numpy()
        half = obj.vertices.max(0).astype(np.float64)
        bits = carve(obj.vertices, obj.faces)
        carved = Solid(lambda bits=bits: bits, unit_frame(0.0, half)).contains(points).numpy()  # type: ignore[misc]
        scores.append((iou(own, inside), iou(carved, inside)))
    mean = np.mean(scores, axis=0)
    assert mean[0] > 0.94 and mean[1] > 0.93  # limited by cells of 1/96 and 1/72 of the box


def test_insides_of_closed_meshes(meshes: list[StoredMesh]) -> None:
    scores = {}
    for mesh in meshes:
        solid = trimesh.Trimesh(mesh.vertices, mesh.faces)
        if solid.is_watertight and solid.is_winding_consistent:
            surface = Mesh(torch.from_numpy(pose(mesh).vertices), torch.from_numpy(mesh.faces).long())
            exact = voxels.occupancy(surface, 64)
            axis = torch.arange(64) / 32 - 1.0
            places = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
            found = Solids().of(mesh, pose(mesh), 0.0).contains(places).numpy().reshape(exact.shape)
            scores[mesh.name] = iou(found, exact)
    assert len(scores) >= 4
    # The parts of the torch overlap and are thin: by parity, twice inside is outside.
    assert min(scores.values()) > 0.7 and np.mean(list(scores.values())) > 0.93


def test_windings_do_not_matter_and_lids_do() -> None:
    """A box with random windings is solid; one without its top is a bowl."""
    box = trimesh.creation.box((1, 1, 1)).subdivide().subdivide().subdivide()
    random = np.random.default_rng(SEED)
    faces = np.where(random.random((len(box.faces), 1)) < 0.5, box.faces, box.faces[:, ::-1])
    assert unpack(carve(box.vertices, faces)).mean() > 0.97
    top = (box.triangles_center[:, 2] > 0.49).nonzero()[0]
    assert unpack(carve(box.vertices, np.delete(box.faces, top, axis=0)))[2:-2, 2:-2, 4:].mean() < 0.02


def test_thin_parts_stay() -> None:
    """A plate without thickness through a ball is one cell thick outside the ball."""
    ball = trimesh.creation.icosphere(3, radius=0.5)
    plate = trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    both = trimesh.util.concatenate([ball, plate])
    cells = unpack(carve(both.vertices, both.faces))
    assert cells.shape == (GRID, GRID, GRID)
    outside = np.hypot(*np.meshgrid(*[(np.arange(GRID) + 0.5) / GRID * 2 - 1] * 2, indexing="ij")) > 0.55
    thickness = cells.sum(2)[outside]
    assert (thickness > 0).mean() > 0.98 and thickness.mean() < 2.1
    assert cells.sum(2)[GRID // 2, GRID // 2] == pytest.approx(GRID, abs=2)


def test_insides_follow_the_object(meshes: list[StoredMesh], draws: Draws) -> None:
    """The lookup applies stretch, mirror and rotation: as if the varied object were carved."""
    scores = []
    for mesh in meshes:
        obj, front = varied(mesh, draws), draws.uniform(-180, 180)
        points = sampled(30_000)
        found = Solids().of(mesh, obj, front).contains(points).numpy()
        turned_back = points @ torch.from_numpy(turn(front)).float()
        direct = Solid(lambda obj=obj: carve(obj.vertices, obj.faces), unit_frame(0.0, obj.half))  # type: ignore[misc]
        wanted = direct.contains(turned_back).numpy()
        scores.append(iou(found, wanted))
    assert min(scores) > 0.75 and np.mean(scores) > 0.92  # the depth maps are those of another stretch


def test_insides_are_in_the_frame_of_the_cameras() -> None:
    """Points inside fall on silhouettes, and nearly all of the silhouettes have points inside."""
    source = open_meshes(objects_share=1, rig=WIDE_RIG, augment=False)
    for number in range(6):
        sample = source.training(number, 1, torch.Generator().manual_seed(SEED + number))
        assert sample.solid is not None
        points = 2.6 * torch.rand(60_000, 3, generator=torch.Generator().manual_seed(SEED)) - 1.3
        inside = points[sample.solid.contains(points)]
        pixels = sample.rig.input_camera.project(inside)[0][0].long().clamp(0, 31)
        hit = torch.zeros(32, 32)
        hit[pixels[:, 1], pixels[:, 0]] = 1
        alpha = sample.input_image[..., 3]
        near = torch.nn.functional.max_pool2d(alpha[None], 3, 1, 1)[0]
        assert (near[hit > 0] > 0).all()
        wide = torch.nn.functional.max_pool2d(hit[None], 3, 1, 1)[0]
        assert (wide[alpha > 0.9] > 0).float().mean() > 0.9


def test_insides_of_meshes_of_one_name(meshes: list[StoredMesh]) -> None:
    """Meshes of the same name in two packs have their own insides."""
    solids, points = Solids(), sampled(20_000)
    pair = [meshes[0], replace(meshes[4], name=meshes[0].name)]
    found = [solids.of(mesh, pose(mesh), 0.0).contains(points) for mesh in pair]
    wanted = [Solids().of(mesh, pose(mesh), 0.0).contains(points) for mesh in pair]
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
    assert iou(wanted[0].numpy(), wanted[1].numpy()) < 0.7


def test_insides_are_cached_on_disk(meshes: list[StoredMesh], tmp_path: Path) -> None:
    made = kept_cells(meshes[0])
    (entry,) = (tmp_path / "cache" / "solids").iterdir()
    assert np.array_equal(made, carve(meshes[0].vertices, meshes[0].faces))
    np.savez_compressed(entry, bits=255 - made)  # differs from one that is made again
    assert np.array_equal(kept_cells(meshes[0]), 255 - made)
    recolored = replace(meshes[0], name="other", palette=255 - meshes[0].palette)
    assert np.array_equal(kept_cells(recolored), 255 - made)  # only geometry counts
    entry.write_bytes(entry.read_bytes()[:100])
    assert np.array_equal(kept_cells(meshes[0]), made) and np.array_equal(kept_cells(meshes[0]), made)
    kept_cells(meshes[1])
    assert len(list(entry.parent.iterdir())) == 2
