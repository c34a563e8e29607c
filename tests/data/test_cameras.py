import pytest
import torch
from helpers.paths import ROOT
from helpers.seeds import fresh_seed

from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras, concatenate, look_at, orbit_cameras
from liftstudio.data.mesh_io import read_mesh
from liftstudio.ops.rasterization import rasterize
from liftstudio.views.posed_images import PosedImages

MARIO = ROOT / "assets/demo/mario"


def random_cameras(count: int, height: int, width: int) -> tuple[Cameras, int]:
    """Return cameras anywhere with different intrinsics, and the seed."""
    seed = fresh_seed()
    generator = torch.Generator().manual_seed(seed)
    c2w = look_at(torch.randn(count, 3, generator=generator) * 2, torch.randn(count, 3, generator=generator) * 0.2)
    focal = torch.rand(4, count, generator=generator)
    return (
        Cameras(
            c2w,
            fx=20 + 30 * focal[0],
            fy=20 + 30 * focal[1],
            cx=width * (0.3 + 0.4 * focal[2]),
            cy=height * (0.3 + 0.4 * focal[3]),
            height=height,
            width=width,
        ),
        seed,
    )


def pixel_centers(height: int, width: int) -> torch.Tensor:
    """Return pixel centres [H, W, 2] (x, y)."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y], dim=-1)


def test_points_on_rays_project_to_their_pixel_centers() -> None:
    cameras, seed = random_cameras(3, 7, 11)
    origins, directions = cameras.rays()
    assert origins.shape == directions.shape == (3, 7, 11, 3)
    for view in range(3):
        points = (origins[view] + 1.7 * directions[view]).reshape(-1, 3)
        pixels, depth = cameras[view : view + 1].project(points)
        # float32: pixels of magnitude 10, depths of 1
        assert (pixels[0].reshape(7, 11, 2) - pixel_centers(7, 11)).abs().max() < 1e-3, seed
        wanted = 1.7 * (directions[view] @ cameras.forward[view])
        assert (depth[0].reshape(7, 11) - wanted).abs().max() < 1e-5, seed


def test_clip_coordinates_agree_with_projection() -> None:
    cameras, seed = random_cameras(4, 30, 20)
    origins, directions = cameras.rays()
    points = (origins + 2.0 * directions)[0].reshape(-1, 3)
    pixels, depth = cameras.project(points)
    clip = cameras.clip(points, near=0.05, far=50.0)
    front = depth > 0.1
    ndc = clip[..., :3] / clip[..., 3:]
    x, y = (ndc[..., 0] + 1) * 10, (1 - ndc[..., 1]) * 15
    error = (torch.stack([x, y], -1) - pixels).abs() / (1 + pixels.abs())
    assert error[front].max() < 1e-3, seed
    assert (clip[..., 3] - depth).abs().max() < 1e-5, seed
    at_near = cameras.centers[:1] + 0.05 * cameras.forward[:1]
    at_far = cameras.centers[:1] + 50.0 * cameras.forward[:1]
    near_far = cameras[:1].clip(torch.cat([at_near, at_far]), near=0.05, far=50.0)[0]
    torch.testing.assert_close(near_far[:, 2] / near_far[:, 3], torch.tensor([-1.0, 1.0]), atol=1e-3, rtol=0)


def test_clip_is_differentiable() -> None:
    cameras, _ = random_cameras(2, 8, 8)
    points = torch.randn(5, 3, requires_grad=True)
    cameras.clip(points).square().sum().backward()
    assert points.grad is not None and bool(torch.isfinite(points.grad).all()) and bool(points.grad.any())


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_lattice_has_exactly_the_rays_of_the_strided_pixels(stride: int) -> None:
    cameras, seed = random_cameras(2, 23, 31)
    offsets_x, offsets_y = torch.tensor([0, stride - 1]), torch.tensor([stride // 2, 0])
    lattice = cameras.lattice(stride, offsets_x, offsets_y, 4, 5)
    directions = lattice.rays()[1]
    for view in range(2):
        x, y = int(offsets_x[view]), int(offsets_y[view])
        wanted = cameras.rays()[1][view, y : y + 4 * stride : stride, x : x + 5 * stride : stride]
        torch.testing.assert_close(directions[view], wanted, atol=2e-6, rtol=0, msg=str(seed))  # float32 rounding


def test_resized_views_see_the_same() -> None:
    cameras, _ = random_cameras(2, 10, 20)
    larger = cameras.resized(30, 60)
    blocks = larger.rays()[1][:, 1::3, 1::3]  # the middle pixel of every 3 x 3
    torch.testing.assert_close(blocks, cameras.rays()[1], atol=2e-6, rtol=0)


def test_azimuth_and_elevation_conventions() -> None:
    azimuth, elevation = torch.tensor([0.0, 90.0, 200.0, 350.0]), torch.tensor([0.0, 30.0, -45.0, 89.0])
    cameras = orbit_cameras(azimuth, elevation, 2.0, 40.0, 16, 24)
    torch.testing.assert_close(cameras.centers[0], torch.tensor([2.0, 0.0, 0.0]))  # azimuth 0 is +x
    assert cameras.centers[1, 1] > 1.7  # counter-clockwise from above: then +y
    torch.testing.assert_close(cameras.azimuth_deg, azimuth, atol=1e-2, rtol=0)  # arcsin near the pole in float32
    torch.testing.assert_close(cameras.elevation_deg, elevation, atol=2e-2, rtol=0)
    torch.testing.assert_close(cameras.distance, torch.full((4,), 2.0))
    torch.testing.assert_close(cameras.forward, -cameras.centers / 2, atol=1e-6, rtol=0)
    pixel, depth = cameras.project(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.1]]))
    torch.testing.assert_close(pixel[:, 0], torch.tensor([12.0, 8.0]).expand(4, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(depth[:, 0], torch.full((4,), 2.0))
    assert bool((pixel[:3, 1, 1] < 8).all())  # up in the world is up in the image
    right = cameras[0:1].project(torch.tensor([[0.0, 0.1, 0.0]]))[0]
    assert right[0, 0, 0] > 12  # from +x, +y is to the right
    top = cameras[0:1].project(torch.tensor([[0.0, 0.0, 2.0 * torch.tan(torch.deg2rad(torch.tensor(20.0)))]]))[0]
    torch.testing.assert_close(top[0, 0, 1], torch.tensor(0.0), atol=1e-4, rtol=0)  # fov_deg is the vertical one


def test_look_at_gives_rotations_even_from_the_poles() -> None:
    centers = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, -2.0], [1e-9, 0.0, 2.0], [1.0, 2.0, 3.0]])
    rotation = look_at(centers, torch.zeros(4, 3))[:, :3, :3]
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).expand(4, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(rotation[0, :, 1], torch.tensor([-1.0, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_selection_and_concatenation() -> None:
    cameras, _ = random_cameras(5, 4, 4)
    joined = concatenate([cameras[:2], cameras[[2, 3]], cameras[torch.tensor([4])]])
    assert len(joined) == 5 and torch.equal(joined.c2w, cameras.c2w) and torch.equal(joined.fy, cameras.fy)


def test_faults_are_refused() -> None:
    angle = torch.zeros(2)
    for arguments in [(angle, angle, 0.0, 40.0), (angle, angle, 1.0, 180.0), (angle / 0, angle, 1.0, 40.0)]:
        with pytest.raises(InputError):
            orbit_cameras(*arguments, 8, 8)
    with pytest.raises(ValueError, match="fx"):
        Cameras(torch.eye(4)[None], angle, angle[:1], angle[:1], angle[:1], 8, 8)
    with pytest.raises(ValueError, match="c2w"):
        Cameras(torch.eye(3)[None], angle[:1], angle[:1], angle[:1], angle[:1], 8, 8)


def test_the_true_mesh_projects_onto_the_photographed_silhouettes() -> None:
    """Poses, intrinsics, pixel centres and world axes together: an offset of half a pixel gives 0.974."""
    views = PosedImages(PosedImages.Config(path=str(MARIO), normalize="as-given"), device=torch.device("cpu")).load()
    mesh = read_mesh(MARIO / "mesh.obj")
    covered = rasterize(views.cameras.clip(mesh.vertices), mesh.faces, 256, 256) >= 0
    silhouettes = views.masks[..., 0] > 0.5
    overlap = (covered & silhouettes).sum((1, 2)) / (covered | silhouettes).sum((1, 2))
    assert overlap.min() > 0.999
