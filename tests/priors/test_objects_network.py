"""The network of the prior `objects`: geometry compared with closed forms, and what it may depend on."""

import math
from dataclasses import replace

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.volume_inputs import perturb, random_cameras, random_rays, random_views
from torch import Tensor

from liftstudio.data.cameras import orbit_cameras
from liftstudio.priors.base import PosedImage
from liftstudio.priors.objects import network as module
from liftstudio.priors.objects.frustum import (
    REACH,
    STEEPEST,
    cell_centers,
    coordinates,
    frame_of,
    pixel_rays,
    sample_frustum,
    upright_axes,
)
from liftstudio.priors.objects.network import (
    Lifted,
    ObjectsNetwork,
    Size,
    camera_features,
    composited,
    straight_colors,
)
from liftstudio.priors.objects.prior import ObjectsPrior
from liftstudio.priors.projections import projections
from liftstudio.priors.volume_prior import RESOLUTION
from liftstudio.training.data import DataConfig, draw_sample
from liftstudio.training.objects_task import ObjectsTask

TINY = Size(
    planes=12, color_planes=3, view_planes=4, full=8, head=16, widths=(8, 16, 32), down=(1, 1), middle=2, up=(1, 1),
    embedding=16,
)  # fmt: skip
SEED = fresh_seed(__name__)
CPU = torch.device("cpu")


@pytest.fixture
def generator() -> torch.Generator:
    print(f"seed {SEED}")  # noqa: T201  shown when a test fails
    return torch.Generator().manual_seed(SEED)


@pytest.fixture
def network(generator: torch.Generator) -> ObjectsNetwork:
    """The network with random weights everywhere, so that no zero hides a fault."""
    made = ObjectsNetwork(TINY)
    perturb(made, generator)
    return made


def test_cells_lie_on_the_rays_of_their_pixels_at_equal_steps(generator: torch.Generator) -> None:
    cameras = random_cameras(3, generator, 24, 24)
    planes = 7
    centers = cell_centers(frame_of(projections(cameras)), planes, 24, 24)
    origins, directions = cameras.rays()
    # On the rays' lines: a plane may cut some of them behind the camera, where it leans little and the ray is steep.
    away = torch.linalg.cross(centers - origins[:, None], directions[:, None].expand_as(centers))
    assert (away.norm(dim=-1) < 1e-4 * (1 + centers.norm(dim=-1))).all()  # float32 inverse
    steps = torch.diff(centers, dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("elevation_deg", [-30.0, 0.0, 25.0, 40.0, 65.0])
def test_planes_stand_upright_unless_the_camera_is_steep(elevation_deg: float) -> None:
    camera = orbit_cameras(torch.tensor([70.0]), torch.tensor([elevation_deg]), 3.0, 40.0, 64, 64)
    frame = frame_of(projections(camera))
    towards = torch.tensor([-math.cos(math.radians(70)), -math.sin(math.radians(70)), 0.0])
    steep = math.degrees(STEEPEST)
    lean = math.radians(elevation_deg - max(min(elevation_deg, steep), -steep))
    normal = math.cos(lean) * towards - math.sin(lean) * torch.tensor([0.0, 0.0, 1.0])
    torch.testing.assert_close(frame[0, 3], torch.cat([normal / REACH, torch.zeros(1)]), atol=1e-6, rtol=0)
    middle, way = pixel_rays(frame, 9, 9)
    assert (middle @ normal).abs().max() < 1e-5
    torch.testing.assert_close(way @ normal, torch.full((1, 9, 9), REACH), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["from above", "from below"])
def test_a_camera_at_the_pole_has_the_axes_of_one_that_is_nearly_there(sign: float) -> None:
    def axes(elevation_deg: float) -> Tensor:
        c, s = math.cos(math.radians(elevation_deg)), math.sin(math.radians(elevation_deg))
        right, down, forward = [0.0, 1.0, 0.0, 0.0], [s, 0.0, -c, 0.0], [-c, 0.0, -s, 3.0]
        return upright_axes(torch.tensor([[right, down, forward]]))

    torch.testing.assert_close(axes(90 * sign), axes(89.9 * sign), atol=1e-5, rtol=0)


def test_coordinates_are_those_of_the_cells(generator: torch.Generator) -> None:
    frame = frame_of(projections(random_cameras(2, generator, RESOLUTION, RESOLUTION)))
    shape = (5, 8, 6)
    centers = cell_centers(frame, *shape)
    where = coordinates(frame, centers.flatten(1, 3))
    volume = torch.rand(2, 3, *shape, generator=generator)
    # float32 rounding of the places, times neighbours that differ by up to 1 over a cell
    torch.testing.assert_close(sample_frustum(volume, where), volume.flatten(2), atol=1e-3, rtol=0)


def lifted_volume(density: Tensor, color: Tensor, frame: Tensor) -> Lifted:
    return Lifted(torch.zeros_like(density), density, color, frame)


@pytest.mark.parametrize("gradients", [True, False], ids=["torch", "numba"])
def test_opacity_is_one_minus_the_exponential_of_density_times_chord(
    network: ObjectsNetwork, generator: torch.Generator, gradients: bool
) -> None:
    frame = frame_of(projections(random_cameras(1, generator, RESOLUTION, RESOLUTION)))
    origins, directions = random_rays(300, generator)
    middle = -(origins * directions).sum(-1, keepdim=True)
    count = 4000
    offsets = REACH * ((2 * torch.arange(count, dtype=torch.float64) + 1) / count - 1)
    points = (origins + middle * directions).double()[..., None, :] + offsets[:, None] * directions.double()[
        ..., None, :
    ]
    inside = (coordinates(frame.double(), points.flatten(1, 2)).abs() <= 1).all(-1).view(1, -1, count)
    chord = inside.sum(-1) * (2 * REACH / count)
    for raw in (-2.0, 0.0, 1.5):
        density = math.log1p(math.exp(raw)) * TINY.planes / (2 * REACH)
        volume = lifted_volume(torch.full((1, TINY.planes, 16, 16), raw), torch.zeros(1, 3, 3, 16, 16), frame)
        with torch.set_grad_enabled(gradients):
            pixels = network.render(volume, origins, directions, 1000)
        wanted = 1 - torch.exp(-density * chord)
        # both ends of the chord lie anywhere within a step, 2.6/1000 long; the march may stop with 0.001 left
        assert (pixels[..., 3].double() / 2 + 0.5 - wanted).abs().max() < density * 2.6 / 1000 * 2 + 1.5e-3
    assert (chord > 0.5).float().mean() > 0.2 and (chord == 0).any()


@pytest.mark.parametrize("size, planes, color_planes", [(16, 12, 3), (9, 5, 2)])
def test_the_kernel_composites_as_torch_does(
    network: ObjectsNetwork, generator: torch.Generator, size: int, planes: int, color_planes: int
) -> None:
    frame = frame_of(projections(random_cameras(2, generator, RESOLUTION, RESOLUTION)))
    density = 6 * torch.randn(2, planes, size, size, generator=generator) - 3
    volume = lifted_volume(density, 2 * torch.rand(2, 3, color_planes, size, size, generator=generator) - 1, frame)
    origins, directions = (rays.expand(2, -1, -1) for rays in random_rays(200, generator))
    middle = torch.full((2, 200, 40), 0.5)
    with torch.no_grad():
        found = network.render(volume, origins, directions, 40)
        wanted = network.render(volume, origins, directions, 40, middle)
    # The kernel stops with 0.001 left (0.002 in [-1, 1]), also of a colour.
    torch.testing.assert_close(found, wanted, atol=3e-3, rtol=0)
    assert (found - wanted)[..., :3].abs().mean() < 0.02
    assert found[..., 3].std() > 0.3


def test_colours_of_small_weights_alone_are_left_out(generator: torch.Generator) -> None:
    color = 2 * torch.rand(1, 3, 3, 8, 8, generator=generator) - 1
    where = 1.8 * torch.rand(1, 50, 6, 3, generator=generator) - 0.9
    weights = torch.rand(1, 50, 6, generator=generator) * (torch.rand(1, 50, 6, generator=generator) > 0.5)
    wanted = (sample_frustum(color, where.flatten(1, 2)).mT.view(1, 50, 6, 3) * weights[..., None]).sum(2)
    error = (composited(color, where, weights) - wanted).abs().amax(-1)
    small = (weights * (weights <= module.SHOWN)).sum(-1)
    assert (error <= small + 1e-5).all()


def test_edge_colours_do_not_contain_the_white_background() -> None:
    color, alpha = torch.tensor([0.2, -0.6, 0.9]), torch.tensor([1.0, 0.5, 0.1])
    over = alpha * color[:, None] + (1 - alpha)
    image = torch.cat([over, 2 * alpha[None] - 1])[None, :, None]
    torch.testing.assert_close(straight_colors(image)[0, :, 0], color[:, None].expand(3, 3), atol=1e-5, rtol=0)


def test_the_camera_condition_has_field_of_view_distance_and_up() -> None:
    elevation_deg, fov_deg = torch.tensor([-15.0, 0.0, 50.0]), 40.0
    cameras = orbit_cameras(torch.tensor([0.0, 80.0, 200.0]), elevation_deg, 3.0, fov_deg, 64, 64)
    shifted = replace(cameras, cx=cameras.cx + 4, cy=cameras.cy - 3)
    for each in (cameras, shifted):
        matrices = projections(each)
        told = camera_features(matrices)
        zoomed = -math.log(math.tan(math.radians(fov_deg / 2)))
        torch.testing.assert_close(told[:, 0], torch.full((3,), zoomed), atol=1e-5, rtol=0)
        torch.testing.assert_close(told[:, 1], torch.full((3,), 0.75), atol=1e-5, rtol=0)
        up = torch.stack([torch.zeros(3), -elevation_deg.deg2rad().cos(), -elevation_deg.deg2rad().sin()], dim=1)
        torch.testing.assert_close(told[:, 2:5], up, atol=1e-5, rtol=0)


def lifted(network: ObjectsNetwork, *given: Tensor) -> Lifted:
    return network.lift(network.look(*given[:2]), *given[2:])


@pytest.mark.parametrize("azimuth_deg", [70.0, 200.0])
def test_occupancy_turns_with_the_world(
    network: ObjectsNetwork, generator: torch.Generator, azimuth_deg: float
) -> None:
    prior = ObjectsPrior.around(network)
    image, mask = torch.rand(RESOLUTION, RESOLUTION, 4, generator=generator).split([3, 1], dim=-1)
    points = 2 * torch.rand(200, 3, generator=generator) - 1
    first, turned = (
        PosedImage(image, mask, orbit_cameras(torch.tensor([angle]), torch.tensor([25.0]), 3.0, 40.0, 64, 64))
        for angle in (0.0, azimuth_deg)
    )
    angle = math.radians(azimuth_deg)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    wanted = prior.occupancy(first, points)
    torch.testing.assert_close(prior.occupancy(turned, points @ turn.T), wanted, atol=1e-3, rtol=1e-3)  # rounding
    assert wanted.std() > 0.1
    assert (prior.occupancy(first, points + 10) == -20).all()  # beyond the frustum


def test_rays_on_which_the_picture_shows_nothing_are_empty(network: ObjectsNetwork, generator: torch.Generator) -> None:
    given = random_views(2, RESOLUTION, generator)
    given[0][:, 3] = -1.0
    given[0][:, 3, 20:40, 20:40] = 1.0
    with torch.no_grad():
        shown, hidden = lifted(network, *given), lifted(network, *given[:5], torch.zeros(2, dtype=torch.bool), given[6])
    beside = torch.ones(64, 64, dtype=torch.bool)
    beside[20:40, 20:40] = False
    for logits in (shown.density, shown.occupancy):
        assert logits[:, :, beside].mean() < logits[:, :, ~beside].mean() - 7  # 9.2 below what the network says
    assert hidden.density[:, :, beside].mean() > shown.density[:, :, beside].mean() + 7


def test_what_is_inside_fills_the_pictures_silhouette(generator: torch.Generator) -> None:
    task = ObjectsTask(ObjectsTask.Config(size=TINY), DataConfig(), torch.float32)
    samples = [draw_sample("toy", SEED + k, DataConfig(), 4, generator) for k in range(3)]
    batch = task.prepare(samples, generator)
    inside, shown = batch["inside"].any(1), batch["input_image"][:, 3] > 0
    iou = (inside & shown).sum((1, 2)) / (inside | shown).sum((1, 2))
    assert iou.mean() > 0.7 and iou.min() > 0.4  # planes of the tiny frustum are 0.2 apart; thin parts slip through
    losses = task.losses(batch)
    assert set(losses) == {"color", "mask", "occupancy"}
    assert all(torch.isfinite(loss) for loss in losses.values())
