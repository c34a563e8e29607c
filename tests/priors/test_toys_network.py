"""The bundled prior's network: geometry compared with closed forms, and what it may depend on."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from helpers.seeds import fresh_seed
from helpers.volume_inputs import perturb, random_cameras, random_rays
from torch import Tensor, nn

from liftstudio.priors.layers import Conv
from liftstudio.priors.projections import project, projections, sample_image
from liftstudio.priors.toys.network import Lifted, Size, ToysNetwork
from liftstudio.synthetic import TexturedObject, make_object
from liftstudio.synthetic.occupancy import occupancy
from liftstudio.training.data import DataConfig, draw_sample

TINY = Size(
    grid=8,
    widths=(8, 16, 32),
    down=(0, 1),
    middle=2,
    up=(1, 1),
    image_widths=(8, 8, 16, 16),
    view_width=8,
    color_features=3,
    embedding=16,
)
SEED = fresh_seed(__name__)
CPU = torch.device("cpu")
both_paths = pytest.mark.parametrize("gradients", [True, False], ids=["torch", "numba"])


@pytest.fixture
def generator() -> torch.Generator:
    print(f"seed {SEED}")  # noqa: T201  shown when a test fails
    return torch.Generator().manual_seed(SEED)


@pytest.fixture
def network(generator: torch.Generator) -> ToysNetwork:
    """The network with random weights everywhere, so that no zero hides a fault."""
    made = ToysNetwork(TINY)
    perturb(made, generator)
    return made


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kernel, stride", [(3, 1), (1, 1), (2, 2)])
def test_volume_convolutions(batch: int, kernel: int, stride: int, generator: torch.Generator) -> None:
    """Values and gradients equal those of torch's convolution, for every backend."""
    conv = Conv(16, 8, 3, kernel, stride)
    x = torch.randn(batch, 16, 6, 6, 6, generator=generator, requires_grad=True)
    weight = conv.weight.view(8, 16, kernel, kernel, kernel)
    wanted = F.conv3d(x, weight, conv.bias, stride, (kernel - stride + 1) // 2)
    out = conv(x)
    inputs = (x, conv.weight, conv.bias)
    pull = torch.randn(wanted.shape, generator=generator)
    found, true = (torch.autograd.grad(y, inputs, pull) for y in (out, wanted))
    # Sums of up to 432 products of order 1 in float32, in another order
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, true, atol=1e-4, rtol=1e-4)


def test_a_point_on_a_pixels_ray_projects_to_that_pixel(generator: torch.Generator) -> None:
    cameras = random_cameras(5, generator)
    origins, directions = cameras.rays()
    along = 0.5 + 4 * torch.rand(origins.shape[:3], generator=generator)[..., None]
    found = project(projections(cameras), (origins + along * directions).flatten(1, 2))
    column, row = (torch.arange(size) + 0.5 for size in (cameras.width, cameras.height))
    y, x = torch.meshgrid(2 * row / cameras.height - 1, 2 * column / cameras.width - 1, indexing="ij")
    wanted = torch.stack([x, y], dim=-1).flatten(0, 1).expand_as(found)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)  # a thousandth of a pixel: float32 at distance 7
    image = torch.rand(5, 3, cameras.height, cameras.width, generator=generator)
    # and reading an image there gives that pixel; neighbours differ by up to 1 per pixel, of which 1e-3 is seen
    torch.testing.assert_close(sample_image(image, found), image.flatten(2), atol=2e-3, rtol=0)


def test_the_depth_of_a_projection_is_that_along_the_cameras_axis(generator: torch.Generator) -> None:
    cameras, points = random_cameras(4, generator), torch.rand(50, 3, generator=generator)
    matrices = projections(cameras)
    depth = matrices[:, 2, :3] @ points.T + matrices[:, 2, 3:]
    torch.testing.assert_close(depth, cameras.project(points)[1], atol=1e-5, rtol=0)  # float32 rounding


def lifted_volume(network: ToysNetwork, raw: float, generator: torch.Generator) -> Lifted:
    """Return a volume of constant density, with colour features of 0.8 times the position."""
    size, g = network.size, network.size.grid
    color = 0.8 * network.grid.view(g, g, g, 3).permute(3, 0, 1, 2)[None]
    picture = torch.randn(1, size.image_widths[0] + 4, 8, 8, generator=generator)
    matrix = projections(random_cameras(1, generator))
    return Lifted(torch.full((1, 1, g, g, g), raw), torch.zeros(1, g, g, g), color, picture, matrix)


class FirstThree(nn.Module):
    """Stand-in for the colour network: returns the first three features."""

    def forward(self, features: Tensor) -> Tensor:
        return features[:, :3]


def chord(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Return where rays enter and leave the sampled part of [-1, 1]^3, within 1.02 of their middles; float64."""
    o, d = origins.double(), directions.double()
    ends = torch.stack([(-1 - o) / d, (1 - o) / d])
    middle = -(o * d).sum(-1)
    near = torch.maximum(ends.amin(0).amax(-1), middle - 1.02)
    far = torch.minimum(ends.amax(0).amin(-1), middle + 1.02)
    return near, torch.maximum(far, near)


@both_paths
def test_opacity_is_one_minus_the_exponential_of_density_times_chord(
    network: ToysNetwork, generator: torch.Generator, gradients: bool
) -> None:
    origins, directions = random_rays(400, generator)
    near, far = chord(origins, directions)
    voxel = 2 / (TINY.grid - 1)
    for raw in (-2.0, 0.0, 1.5):
        density = math.log1p(math.exp(raw)) / voxel
        with torch.set_grad_enabled(gradients):
            pixels = network.render(lifted_volume(network, raw, generator), origins, directions, 1000, None)
        wanted = 1 - torch.exp(-density * (far - near))
        # the cube's two faces lie anywhere within a step, 2.04/1000 long; the march may stop with 0.001 left
        error = (pixels[..., 3].double() / 2 + 0.5 - wanted).abs().max()
        assert error < density * 2.04 / 1000 + 1.2e-3
    assert ((far - near) > 0.5).float().mean() > 0.2 and (far == near).any()


@both_paths
def test_colour_is_the_integral_of_weighted_colour(
    network: ToysNetwork, generator: torch.Generator, gradients: bool
) -> None:
    network.color = nn.Sequential(FirstThree())
    origins, directions = random_rays(200, generator)
    near, far = chord(origins, directions)
    voxel, raw = 2 / (TINY.grid - 1), 4.0
    density = math.log1p(math.exp(raw)) / voxel
    share = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    t = near[..., None] + share * (far - near)[..., None]
    weight = density * torch.exp(-density * (t - near[..., None])) * (far - near)[..., None] / 4000
    places = origins.double()[..., None, :] + t[..., None] * directions.double()[..., None, :]
    wanted = (weight[..., None] * torch.tanh(0.8 * places)).sum(-2) + 1 - weight.sum(-1, keepdim=True)
    with torch.set_grad_enabled(gradients):
        pixels = network.render(lifted_volume(network, raw, generator), origins, directions, 40, None)
    # Samples are 0.051 apart, and those of a weight below 0.01 are left out; only in the middle of long chords is
    # the sum close to the integral, at its ends a step more or less is up to half of the opacity.
    deep = (far - near) > 0.5
    assert deep.sum() > 20
    assert (pixels[..., :3].double() - wanted)[deep].abs().max() < 0.06
    missed = far == near
    torch.testing.assert_close(pixels[missed][:, :3], torch.ones(int(missed.sum()), 3), atol=1e-6, rtol=0)  # white
    assert (pixels[missed][:, 3] < -1 + 1e-6).all()  # transparent


def test_the_grid_is_in_no_file_and_follows_the_network() -> None:
    with torch.device("meta"):
        network = ToysNetwork(TINY)
    assert "grid" not in network.state_dict()
    network.make_grid(CPU)
    assert network.grid.device == CPU and network.to("meta").grid.device.type == "meta"
    network.make_grid(CPU)
    first, second, last = network.grid[0], network.grid[1], network.grid[-1]
    assert first.tolist() == [-1, -1, -1] and last.tolist() == [1, 1, 1]
    assert (second - first).gt(0).tolist() == [True, False, False]  # x is the fastest


def with_shape(mesh: trimesh.Trimesh) -> TexturedObject:
    """Return an object of a given shape, with arbitrary appearance."""
    vertices, faces = np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32)
    return replace(make_object("toy", 0), vertices=vertices, faces=faces)


def axes(grid: int, half_side: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, y, z [G, G, G] of the vertices."""
    axis = torch.linspace(-half_side, half_side, grid)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return x, y, z


def test_occupancy_of_overlapping_balls_is_their_union(generator: torch.Generator) -> None:
    centers = 0.6 * torch.rand(3, 3, generator=generator) - 0.3
    radii = 0.3 + 0.2 * torch.rand(3, generator=generator)
    balls = [
        trimesh.creation.icosphere(4, radius=float(r)).apply_translation(c) for c, r in zip(centers, radii, strict=True)
    ]
    found = occupancy(with_shape(trimesh.util.concatenate(balls)), 33, 1.0)
    places = torch.stack(axes(33, 1.0), dim=-1)
    inside = torch.stack([(places - c).norm(dim=-1) - r for c, r in zip(centers, radii, strict=True)]).amin(0)
    sure = inside.abs() > 2e-3  # a facet's middle is up to 1.2e-3 below the sphere
    assert torch.equal(found[sure], (inside < 0)[sure]) and found.sum() > 500


def test_occupancy_of_a_box_is_where_the_box_is() -> None:
    box = trimesh.creation.box((1.4, 0.6, 0.9)).apply_translation((0.1, -0.15, 0.05))
    found = occupancy(with_shape(box), 40, 1.0)
    x, y, z = axes(40, 1.0)
    beyond = torch.stack([(x - 0.1).abs() - 0.7, (y + 0.15).abs() - 0.3, (z - 0.05).abs() - 0.45]).amax(0)
    sure = beyond.abs() > 1e-4  # the vertices are shifted by 1e-5 on purpose
    assert torch.equal(found[sure], (beyond < 0)[sure])


@pytest.mark.parametrize("kind", ["toy", "composite"])
def test_occupancy_fills_the_silhouettes(kind: str, generator: torch.Generator) -> None:
    """In the cameras' frame: no vertices outside a silhouette, no large part of one without vertices."""
    for seed in torch.randint(2**32, (3,), generator=generator).tolist():
        sample = draw_sample(kind, seed, DataConfig(), 6, generator)  # type: ignore[arg-type]
        assert sample.solid is not None
        points = torch.stack(axes(48, 1.0), dim=-1).view(-1, 3)
        points = points[sample.solid.contains(points)]
        assert len(points) > 100
        alpha = sample.images[..., 3][:, None]
        at = project(projections(sample.rig.views), points.expand(6, -1, -1))
        near = F.max_pool2d(alpha, 3, stride=1, padding=1)  # a pixel's centre may be beside a sliver that it shows
        in_picture = at.abs().amax(-1) < 1
        assert (sample_image(near, at)[:, 0][in_picture] > 0).all()
        hit = torch.zeros(6, 64 * 64)
        pixel = ((at + 1) * 32).long().clamp(0, 63)
        hit.scatter_(1, pixel[..., 1] * 64 + pixel[..., 0], 1.0)
        covered = F.max_pool2d(hit.view(6, 1, 64, 64), 5, stride=1, padding=2)  # vertices are 1.2 to 2 pixels apart
        assert covered[alpha > 0.99].mean() > 0.9  # except parts thinner than a voxel


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("axes", [2, 3])
def test_convolutions_in_half_precision_on_any_cpu(axes: int, dtype: torch.dtype) -> None:
    layer, x = Conv(4, 6, axes), torch.randn(1, 4, *[5] * axes)
    torch.testing.assert_close(layer(x.to(dtype)).float(), layer(x), atol=0.05, rtol=0)  # 8 bits of values up to 3
