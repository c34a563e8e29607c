"""Fusion of depth maps of known shapes into closed shapes."""

import pytest
import torch
import trimesh
from helpers.tiny_scenes import TINY_GRID, Solid, as_trimesh, ball, from_trimesh, orbit, scene_of
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras
from liftstudio.data.mesh import Mesh
from liftstudio.data.render import Render
from liftstudio.geometry import depth_fusion, dmtet
from liftstudio.geometry.depth_fusion import FusedShape, fuse_depth
from liftstudio.geometry.dmtet import DMTet
from liftstudio.renderers.surface import render_mesh

BOX = torch.tensor([[-1.0] * 3, [1.0] * 3])
ALL_AROUND = [-50.0, 0.0, 50.0]


@pytest.fixture(autouse=True)
def small_fine_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth_fusion, "FINE_CELLS", 2**18)


def look(mesh: Mesh, cameras: Cameras) -> Render:
    return render_mesh(mesh, scene_of(Solid(mesh=mesh)), cameras)


def fuse(mesh: Mesh, elevations: list[float]) -> FusedShape:
    cameras = orbit(12, 96, elevations)
    return fuse_depth(look(mesh, cameras), cameras, BOX)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def centers(shape: FusedShape) -> Tensor:
    """Return world points [G, G, G, 3]."""
    steps = (torch.arange(len(shape.sdf)) + 0.5) / len(shape.sdf)
    grid = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1)
    return shape.box[0] + grid * (shape.box[1] - shape.box[0])


def iou(a: Tensor, b: Tensor) -> float:
    return ((a & b).sum() / (a | b).sum()).item()


def test_sphere() -> None:
    shape = fuse(ball(), ALL_AROUND)
    distance = centers(shape).norm(dim=-1) - 0.5
    assert iou(shape.sdf < 0, distance < 0) > 0.95
    near = distance.abs() < 0.1
    # Half a cell from the labels and half a pixel from the silhouettes would be 0.02 at worst; the mean is below half.
    assert (shape.sdf - distance)[near].abs().mean() < 0.01


def test_box() -> None:
    shape = fuse(from_trimesh(trimesh.creation.box((0.6, 0.9, 0.4))), ALL_AROUND)
    inside = (centers(shape).abs() < torch.tensor([0.3, 0.45, 0.2])).all(-1)
    assert iou(shape.sdf < 0, inside) > 0.9


def test_offset_box_keeps_the_order_of_the_axes() -> None:
    middle = torch.tensor([0.3, -0.2, 0.1])
    mesh = from_trimesh(trimesh.creation.box((0.3, 0.5, 0.7)))
    shape = fuse(Mesh(mesh.vertices + middle, mesh.faces), ALL_AROUND)
    inside = ((centers(shape) - middle).abs() < torch.tensor([0.15, 0.25, 0.35])).all(-1)
    assert iou(shape.sdf < 0, inside) > 0.9
    box = shape.bounding_box(0.1)
    torch.testing.assert_close(box.mean(0), middle, atol=0.03, rtol=0)
    torch.testing.assert_close(box[1] - box[0], torch.full((3,), 0.7 * 1.2), atol=0.05, rtol=0)


def test_an_unseen_underside_is_closed_flat() -> None:
    """A box seen only from above has a cone below in its visual hull; the fused shape ends with its walls."""
    mesh = from_trimesh(trimesh.creation.box((0.8, 0.8, 0.4)))
    shape = fuse(mesh, [30.0])
    inside, points = shape.sdf < 0, centers(shape)
    cell = (shape.box[1, 0] - shape.box[0, 0]).item() / len(shape.sdf)
    assert points[inside][:, 2].min() > -0.2 - 3 * cell
    true = (points.abs() < torch.tensor([0.4, 0.4, 0.2])).all(-1)
    assert iou(inside, true) > 0.9


def test_an_unseen_underside_is_closed_above_the_border() -> None:
    """For a tall box with a wide foot, the unseen cone below the foot is cut by the grid's border."""
    foot, body = ((1.4, 1.4, 0.2), -0.8), ((0.6, 0.6, 1.6), 0.1)
    parts = []
    for extents, z in (foot, body):
        part = trimesh.creation.box(extents)
        part.apply_translation([0, 0, z])
        parts.append(part)
    shape = fuse(from_trimesh(trimesh.util.concatenate(parts)), [30.0])
    inside, points = shape.sdf < 0, centers(shape)
    cell = (shape.box[1, 0] - shape.box[0, 0]).item() / len(shape.sdf)
    assert points[inside][:, 2].min() > -0.9 - 3 * cell
    true = [
        ((points - torch.tensor([0, 0, z])).abs() < torch.tensor(extents) / 2).all(-1) for extents, z in (foot, body)
    ]
    assert iou(inside, true[0] | true[1]) > 0.85


def test_space_seen_through_is_carved() -> None:
    """Rays through the hole of a ring end on the background."""
    ring = from_trimesh(trimesh.creation.torus(0.5, 0.15, 32, 16))
    shape = fuse(ring, [-60.0, 20.0, 60.0])
    points = centers(shape)
    assert (shape.sdf[points.norm(dim=-1) < 0.2] > 0).all()
    true = torch.hypot(points[..., :2].norm(dim=-1) - 0.5, points[..., 2]) < 0.15
    assert iou(shape.sdf < 0, true) > 0.85


def test_a_prior_closes_what_no_view_sees() -> None:
    """A ball seen from one side ends where the prior says; without it, in the plane of least area."""
    cameras = orbit(1, 96, [10.0])
    seen = look(ball(), cameras)
    axis = (2 * torch.arange(48) + 1) / 48 - 1
    distance = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).norm(dim=-1) - 0.5
    alone, with_prior = (fuse_depth(seen, cameras, BOX, inside) for inside in (None, torch.tanh(-10 * distance)))
    overlaps = [iou(shape.sdf < 0, centers(shape).norm(dim=-1) < 0.5) for shape in (alone, with_prior)]
    assert overlaps[0] < 0.8 and overlaps[1] > 0.93


def test_beyond_the_cube_the_prior_says_outside() -> None:
    cameras = orbit(12, 96, ALL_AROUND, distance=9.0)
    seen = look(ball(1.5), cameras)
    shape = fuse_depth(seen, cameras, 2 * BOX, torch.full((16, 16, 16), 1.0))
    assert (shape.sdf < 0)[centers(shape).norm(dim=-1) < 1].all()
    assert not (shape.sdf < 0)[centers(shape).norm(dim=-1) > 1.6].any()


def test_sampling_is_trilinear() -> None:
    box = torch.tensor([[-1.0, -2.0, 0.0], [1.0, 2.0, 3.0]])
    shape = FusedShape(torch.empty(8, 8, 8), box, box)
    weights = torch.tensor([1.0, -0.5, 0.25])
    shape = FusedShape(centers(shape) @ weights, box, box)
    points = box[0] + (0.1 + 0.8 * torch.rand(100, 3)) * (box[1] - box[0])
    torch.testing.assert_close(shape.sample(points), points @ weights, atol=1e-5, rtol=0)


def test_nothing_seen() -> None:
    cameras = orbit(4, 16)
    seen = look(Mesh(ball().vertices + 50.0, ball().faces), cameras)
    with pytest.raises(InputError, match=r"opacity is below 0.5 everywhere"):
        fuse_depth(seen, cameras, BOX)


def test_views_that_contradict_each_other_leave_nothing() -> None:
    """A small ball that only one of two opposite cameras sees is carved away by the other."""
    cameras = orbit(2, 32)
    full, empty = look(ball(0.2), cameras), look(Mesh(ball().vertices + 50.0, ball().faces), cameras)
    images = {name: torch.cat([getattr(full, name)[:1], getattr(empty, name)[1:]]) for name in ("rgb", "foreground")}
    maps = {
        name: torch.cat([getattr(full, name)[:1], getattr(empty, name)[1:]]) for name in ("opacity", "depth", "points")
    }
    with pytest.raises(InputError, match="no shape is left"):
        fuse_depth(Render(**images, **maps), cameras, BOX)


ROD, PLATE, RING = (
    trimesh.creation.box((0.09, 0.09, 1.8)),
    trimesh.creation.box((1.8, 1.2, 0.05)),
    trimesh.creation.torus(0.855, 0.045, 48, 12),
)
TILT = trimesh.transformations.euler_matrix(0.6, 0.7, 0.3)


@pytest.mark.parametrize(
    "thin", [ROD, ROD.copy().apply_transform(TILT), PLATE, RING], ids=["rod", "tilted-rod", "plate", "ring"]
)
def test_a_thin_object_stays_in_one_piece(thin: trimesh.Trimesh, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FusedShape] = []
    monkeypatch.setattr(dmtet, "fuse_depth", lambda *given: made.append(fuse_depth(*given)) or made[-1])
    cameras = orbit(12, 128, [-20.0, 30.0])
    geometry = DMTet(DMTet.Config(resolution=128, grid=TINY_GRID), device=torch.device("cpu"), generator=seeded())
    geometry.initialize(Solid(), cameras, look(from_trimesh(thin), cameras))
    (shape,) = made
    assert shape.cell < 0.02 and shape.volume == pytest.approx(thin.volume, rel=0.4)
    torch.testing.assert_close(shape.extent(), torch.tensor(thin.bounds).float(), atol=0.06, rtol=0)
    surface = as_trimesh(geometry.mesh())
    assert surface.body_count == 1 and surface.volume == pytest.approx(thin.volume, rel=0.5)


def test_too_thin_for_the_tetrahedral_grid() -> None:
    cameras = orbit(12, 128, [-20.0, 30.0])
    seen = look(from_trimesh(ROD.copy().apply_transform(TILT)), cameras)
    geometry = DMTet(DMTet.Config(resolution=24, grid=TINY_GRID), device=torch.device("cpu"), generator=seeded())
    key = r"system\.stages\.NAME\.geometry\.resolution"
    message = rf"about [3-9]\.\d % of its longest side thick; raise {key} from 24 to \d+$"
    with pytest.raises(InputError, match=message) as error:
        geometry.initialize(Solid(), cameras, seen)
    advised = int(str(error.value).split()[-1])
    DMTet(DMTet.Config(resolution=advised, grid=TINY_GRID), device=torch.device("cpu"), generator=seeded()).initialize(
        Solid(), cameras, seen
    )


def test_too_thin_for_the_pixels() -> None:
    """A wire of half a pixel is seen in some places and not in others; masks and poses are not to blame."""
    wire = from_trimesh(trimesh.creation.box((0.02, 0.02, 1.8)).apply_transform(TILT))
    cameras = orbit(8, 96, [-20.0, 30.0])
    with pytest.raises(InputError, match=r"the object is too thin: its silhouettes are at most about [12] pixels"):
        fuse_depth(look(wire, cameras), cameras, BOX)
