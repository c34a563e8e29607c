"""The procedural objects that priors are trained on, and their renderer."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import trimesh
from helpers.seeds import fresh_seed
from scipy import ndimage

from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.mesh import Mesh
from liftstudio.data.mesh_io import read_mesh
from liftstudio.metrics.voxels import occupancy, volume_iou
from liftstudio.ops.interpolation import interpolate
from liftstudio.ops.rasterization import fragments, rasterize, scatter_image
from liftstudio.synthetic import Kind, ObjectRender, TexturedObject, make_object, reference, render, split
from liftstudio.synthetic.textures import Pattern
from liftstudio.synthetic.truth import part_mesh, save_truth, to_mesh

KINDS: tuple[Kind, ...] = get_args(Kind)
both_kinds = pytest.mark.parametrize("kind", KINDS)


def fresh(kind: Kind, count: int) -> list[TexturedObject]:
    seeds = [fresh_seed() for _ in range(count)]
    print(f"{kind} seeds {seeds}")  # noqa: T201  shown when a test fails
    return [make_object(kind, seed) for seed in seeds]


def cameras_at(azimuth_deg: list[float], elevation_deg: list[float], size: int = 64) -> Cameras:
    return orbit_cameras(torch.tensor(azimuth_deg), torch.tensor(elevation_deg), 3.6, 33.8, size, size)


def random_cameras(count: int, height: int, width: int) -> Cameras:
    """Return pinhole cameras around the object, some close, with off-centre principal points."""
    azimuth, elevation, distance = torch.rand(3, count).unbind(0)
    cameras = orbit_cameras(360 * azimuth, 160 * elevation - 80, 2.4 + 2 * distance, 40.0, height, width)
    return replace(cameras, fx=cameras.fx * 1.1, cx=cameras.cx + 3.3, cy=cameras.cy - 2.7)


def arrays(obj: TexturedObject) -> list[bytes]:
    return [np.asarray(getattr(obj, field.name)).tobytes() for field in fields(obj) if field.name != "light"]


@both_kinds
def test_a_seed_gives_the_same_bytes_also_in_threads(kind: Kind) -> None:
    seeds = [fresh_seed() for _ in range(8)]
    cameras = cameras_at([0.0, 130.0], [10.0, -20.0])
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda seed: render(make_object(kind, seed), cameras), seeds))
    for seed, there in zip(seeds, threaded, strict=True):
        here = make_object(kind, seed)
        again = make_object(kind, seed)
        assert arrays(here) == arrays(again)
        assert astuple(here.light) == astuple(again.light)
        assert all(torch.equal(a, b) for a, b in zip(astuple(render(here, cameras)), astuple(there), strict=True))
    assert arrays(make_object(kind, 1)) != arrays(make_object(kind, 2))


def test_splits_and_kinds_share_no_seed() -> None:
    ends = (0, 1, 49, 50, 2**30 - 1)
    seeds = [split(index, kind, part) for kind in KINDS for part in ("train", "unseen") for index in ends]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)  # what torch's CPU generator tells apart
    assert [split(index, "toy", "unseen") for index in range(50)] == list(range(50))
    for index in (-1, 2**30):
        with pytest.raises(InputError, match="index"):
            split(index, "toy", "train")
    with pytest.raises(InputError, match="seed"):
        make_object("toy", 2**32)
    with pytest.raises(InputError, match="kind"):
        make_object("car", 0)  # type: ignore[arg-type]


@both_kinds
def test_size_and_place(kind: Kind) -> None:
    for obj in fresh(kind, 40):
        low, high = obj.vertices.min(0), obj.vertices.max(0)
        longest, radius = (high - low).max(), np.linalg.norm(obj.vertices, axis=1).max()
        assert np.abs(low + high).max() < 1e-6
        assert longest < 1.8 + 1e-5
        assert radius < 1.04 + 1e-5
        assert longest > 1.8 - 1e-5 or radius > 1.04 - 1e-5


@both_kinds
def test_no_orbit_up_to_50_degrees_crops(kind: Kind) -> None:
    for obj in fresh(kind, 12):
        cameras = orbit_cameras(360 * torch.rand(12), 100 * torch.rand(12) - 50, 3.6, 33.8, 64, 64)
        beyond = replace(cameras, cx=cameras.cx + 8, cy=cameras.cy + 8, height=80, width=80)
        alpha = render(obj, beyond).alpha
        assert torch.equal(alpha[:, 8:72, 8:72].sum(), alpha.sum())
        assert torch.equal(alpha[:, 8:72, 8:72], render(obj, cameras).alpha)
        assert alpha.mean() > 0.03


@both_kinds
def test_parts_are_closed_and_face_outwards(kind: Kind) -> None:
    for obj in fresh(kind, 20):
        for part in range(len(obj.patterns)):
            mesh = part_mesh(obj, part)
            edges = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
            there, back = (set(map(tuple, e.tolist())) for e in (edges, edges.flip(1)))
            assert len(there) == len(edges) and there == back
            a, b, c = mesh.corners().double().unbind(1)
            assert (a * torch.linalg.cross(b, c)).sum() > 0


@both_kinds
def test_corner_normals_are_unit_and_within_the_crease_of_their_face(kind: Kind) -> None:
    for obj in fresh(kind, 10):
        faces = Mesh(torch.from_numpy(obj.vertices), torch.from_numpy(obj.faces).long())
        area = faces.face_area_vectors().numpy()
        normals = area / np.linalg.norm(area, axis=1, keepdims=True)
        assert np.allclose(np.linalg.norm(obj.normals, axis=-1), 1, atol=1e-5)
        # Every summand is within 50 degrees of the face, so their mean is; slack for faces of almost no area.
        sound = np.linalg.norm(area, axis=1) > 1e-6
        cosine = (obj.normals * normals[:, None]).sum(-1)[sound]
        assert cosine.min() > np.cos(np.radians(50.5))


def test_toys_are_left_right_symmetric() -> None:
    azimuth, elevation = [0.0, 35.0, 100.0, 160.0], [0.0, 30.0, -20.0, 10.0]
    for obj in fresh("toy", 10):
        left = render(obj, cameras_at(azimuth, elevation), shaded=False)
        right = render(obj, cameras_at([-a for a in azimuth], elevation), shaded=False)
        # Quadrangles that are not flat are cut along diagonals that are not mirrored: edges move by parts of a pixel.
        assert (left.rgb - right.rgb.flip(2)).abs().mean() < 0.004
        assert (left.alpha - right.alpha.flip(2)).abs().mean() < 0.002


def test_toys_look_along_x() -> None:
    """Pupils and black eyes are the darkest things on a toy; from behind there are none."""
    for obj in fresh("toy", 25):
        front, back = render(obj, cameras_at([0.0, 180.0], [0.0, 0.0]), shaded=False, supersampling=1).rgb
        dark = torch.stack([front, back]).amax(-1) < 0.1
        assert dark[0].sum() >= 4
        assert dark[1].sum() == 0
        columns = dark[0].nonzero()[:, 1]
        assert columns.min() < 32 <= columns.max()


def assert_alike(fast: ObjectRender, slow: ObjectRender) -> None:
    assert torch.equal(fast.alpha, slow.alpha)
    assert 0 < slow.alpha.mean() < 1
    # Faces seen nearly edge-on, thinner than rounding, are where a sample's depth is ill-conditioned.
    assert ((fast.depth - slow.depth).abs() > 1e-4).float().mean() < 1e-4
    # Rounding moves a sample across the border of a stripe or a check now and then.
    assert ((fast.rgb - slow.rgb).abs().amax(-1) > 1e-4).float().mean() < 2e-3


@both_kinds
@pytest.mark.parametrize("supersampling", [1, 2, 3])
@pytest.mark.parametrize("shaded", [True, False])
def test_renderer_against_plain_torch(kind: Kind, supersampling: int, shaded: bool) -> None:
    for obj in fresh(kind, 4):
        cameras = random_cameras(3, 44, 60)
        fast = render(obj, cameras, shaded=shaded, supersampling=supersampling)
        slow = reference.render(obj, cameras, shaded=shaded, supersampling=supersampling)
        assert fast.rgb.shape == (3, 44, 60, 3) and fast.depth.shape == fast.alpha.shape == (3, 44, 60, 1)
        assert fast.rgb.dtype == fast.alpha.dtype == fast.depth.dtype == torch.float32
        assert_alike(fast, slow)


@pytest.mark.parametrize("pattern", list(Pattern))
def test_every_pattern_against_plain_torch(pattern: Pattern) -> None:
    obj = fresh("composite", 1)[0]
    parts = len(obj.patterns)
    settings = np.stack([np.full(parts, 3.7), np.full(parts, 0.35)], axis=1)
    obj = replace(obj, patterns=np.full(parts, int(pattern), np.int64), settings=settings)
    points = 2 * np.random.default_rng(fresh_seed()).random((500, 3)) - 1
    part = np.arange(500) % parts
    wanted = reference.albedo(obj, torch.from_numpy(points), torch.from_numpy(part)).numpy()
    assert (np.abs(obj.albedo(points, part) - wanted).max(-1) > 1e-6).mean() <= 0.002  # one on a border
    assert wanted.min() >= 0 and wanted.max() <= 1
    varied = np.ptp(wanted[part == 0], axis=0).max() > 0
    assert varied == (pattern != Pattern.SOLID)


@both_kinds
def test_depth_is_that_of_the_rasteriser(kind: Kind) -> None:
    cameras = random_cameras(4, 50, 50)
    for obj in fresh(kind, 4):
        faces = torch.from_numpy(obj.faces).long()
        clip = cameras.clip(torch.from_numpy(obj.vertices))
        seen = fragments(clip, faces, rasterize(clip, faces, 50, 50))
        wanted = scatter_image(interpolate(clip[..., 3:], faces, seen), seen)
        got = render(obj, cameras, supersampling=1).depth
        assert ((got - wanted).abs() > 1e-4).float().mean() < 2e-4  # as in `assert_alike`


def test_light_falls_on_the_side_it_comes_from() -> None:
    lit = next(obj for obj in fresh("toy", 30) if obj.light.diffuse > 0)
    lit = replace(lit, light=replace(lit.light, direction=(1.0, 0.0, 0.0)))
    shaded, plain = (render(lit, cameras_at([0.0, 180.0], [0.0, 0.0]), shaded=flag) for flag in (True, False))
    darker = ((plain.rgb - shaded.rgb) * plain.alpha).mean((1, 2, 3))
    assert darker[1] > darker[0] + 0.01
    unlit = replace(lit, light=replace(lit.light, ambient=1.0, diffuse=0.0))
    assert torch.allclose(render(unlit, cameras_at([0.0], [0.0])).rgb, plain.rgb[:1], atol=1e-6)


def test_supersampling_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="supersampling"):
        render(make_object("toy", 0), cameras_at([0.0], [0.0]), supersampling=0)


@both_kinds
def test_union_is_closed_one_piece_and_holds_all_parts(kind: Kind) -> None:
    """Also: no part is disconnected."""
    size = 96
    for obj in fresh(kind, 8):
        solid = np.zeros((size, size, size), bool)
        for part in range(len(obj.patterns)):
            solid |= occupancy(part_mesh(obj, part), size)
        assert ndimage.label(solid, np.ones((3, 3, 3)))[1] == 1
        union = to_mesh(obj)
        assert trimesh.Trimesh(union.vertices.numpy(), union.faces.numpy(), process=False).is_watertight
        # Grid points on a surface may fall either way, cuts move by rounding, and a ray that meets an edge may flip the
        # inside of a column of points (one toy in a hundred).
        differs = solid != occupancy(union, size)
        assert differs.sum() <= 5e-3 * solid.sum()


def test_saved_truth_has_the_shape_and_the_colours(tmp_path: Path) -> None:
    obj = fresh("toy", 1)[0]
    save_truth(obj, tmp_path)
    assert volume_iou(read_mesh(tmp_path / "mesh.glb"), to_mesh(obj)) > 0.999
    loaded = trimesh.load(tmp_path / "mesh.glb", process=False).to_mesh()
    big = loaded.area_faces > 1e-4  # a few texels or more
    points, uv = loaded.triangles_center[big], loaded.visual.uv[loaded.faces[big]].mean(1)
    image = np.asarray(loaded.visual.material.baseColorTexture.convert("RGB"), np.float32) / 255
    row, column = ((1 - uv[:, 1]) * len(image)).astype(int), (uv[:, 0] * len(image)).astype(int)
    world = np.stack([points[:, 0], -points[:, 2], points[:, 1]], axis=1)
    candidates = [obj.albedo(world, np.full(len(world), part)) for part in range(len(obj.patterns))]
    error = np.min([np.abs(image[row, column] - color).max(-1) for color in candidates], axis=0)
    assert (error < 0.02).mean() > 0.97  # the rest lies at borders of stripes
