"""A denoiser with an internal volume: images are lifted into a grid, completed there, and rendered back.

The idea is from SyncDreamer's spatial volume (Liu et al. 2023) and viewset diffusion (Szymanowicz et al. 2023): x0 is a
volume rendering, so the views are consistent by construction, and cameras are free in number and position. Here,
pixels are in [-1, 1], channels first, with four channels: rgb over white and alpha.
"""

import itertools
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liftstudio.core.ranges import NonNegativeInt, PositiveInt, Range
from liftstudio.ops.lifting import lift
from liftstudio.priors.layers import (
    Attention,
    Block,
    Conv,
    HeadMultiple,
    Multiple8,
    doubled,
    level_features,
    through,
)
from liftstudio.priors.projections import project, ray_shares, sample_image
from liftstudio.priors.toys.marching import ray_weights

CHANNELS = 4  # rgb over white, alpha
SIGMA_DATA = 0.5  # standard deviation of the pixels, for c_in
EMPTY = torch.tensor([1.0, 1.0, 1.0, -1.0])  # a background pixel: white, transparent
REACH = 1.02  # half the sampled length of a ray, in half sides of the cube


@dataclass(frozen=True)
class Size:
    """The options that fix the network's shapes."""

    grid: Annotated[int, Range(multiple_of=4)] = 32  # vertices along each axis of the volume
    half_side: Annotated[float, Range(0.1)] = 1.0  # of the volume's cube, world units; the object's longest side is 1.8
    widths: tuple[Multiple8, Multiple8, HeadMultiple] = (32, 64, 128)  # channels at full, 1/2 and 1/4 resolution
    down: tuple[NonNegativeInt, NonNegativeInt] = (0, 1)  # residual blocks at full and 1/2 resolution in the down path
    middle: PositiveInt = 4  # residual blocks at 1/4 resolution, with attention between them
    up: tuple[NonNegativeInt, NonNegativeInt] = (1, 2)  # residual blocks at full and 1/2 resolution in the up path
    image_widths: tuple[Multiple8, Multiple8, Multiple8, Multiple8] = (32, 48, 64, 96)  # of the input image's pyramid
    view_width: Multiple8 = 16  # channels of a noisy view's features
    color_features: PositiveInt = 14  # channels of the volume that colour is predicted from
    embedding: PositiveInt = 192  # width of the embedding of noise level, number of views and whole image


class ImageEncoder(nn.Module):
    """A U-Net that encodes the input image as features at full resolution with global context, and as one vector."""

    def __init__(self, widths: tuple[int, ...], vector: int):
        super().__init__()
        self.first = Conv(CHANNELS, widths[0], 2)
        self.down = nn.ModuleList(Block(a, b, 2) for a, b in itertools.pairwise((widths[0], *widths)))
        self.up = nn.ModuleList(Block(a + b, a, 2) for a, b in itertools.pairwise(widths))
        self.vector = nn.Linear(widths[-1] * 16, vector)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x, levels = self.first(image), []
        for i, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if i else x)
            levels.append(x)
        vector = self.vector(F.adaptive_avg_pool2d(x, 4).flatten(1).float())
        for block, level in zip(reversed(self.up), reversed(levels[:-1]), strict=True):
            x = block(torch.cat([level, F.interpolate(x, scale_factor=2.0, mode="nearest")], dim=1))
        return x, vector


class VolumeNet(nn.Module):
    """A 3D U-Net over the grid."""

    def __init__(self, inside: int, outside: int, size: Size):
        super().__init__()
        (w0, w1, w2), e = size.widths, size.embedding
        self.first = Conv(inside, w0, 3, kernel=1)
        self.down0 = nn.ModuleList(Block(w0, w0, 3, e) for _ in range(size.down[0]))
        self.shrink0 = Conv(w0, w1, 3, kernel=2, stride=2)
        self.down1 = nn.ModuleList(Block(w1, w1, 3, e) for _ in range(size.down[1]))
        self.shrink1 = Conv(w1, w2, 3, kernel=2, stride=2)
        self.middle = nn.ModuleList(Block(w2, w2, 3, e) for _ in range(size.middle))
        self.attention = nn.ModuleList(Attention(w2) for _ in range(size.middle - 1))
        self.grow1, self.grow0 = Conv(w2, w1, 3, kernel=1), Conv(w1, w0, 3, kernel=1)
        self.up1 = nn.ModuleList(Block(w1, w1, 3, e) for _ in range(size.up[1]))
        self.up0 = nn.ModuleList(Block(w0, w0, 3, e) for _ in range(size.up[0]))
        self.norm, self.last = nn.GroupNorm(8, w0), Conv(w0, outside, 3)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        full = through(self.down0, self.first(x), embedding)
        half = through(self.down1, self.shrink0(full), embedding)
        x = self.shrink1(half)
        for i, block in enumerate(self.middle):
            x = block(x, embedding)
            x = self.attention[i](x) if i < len(self.attention) else x
        x = through(self.up1, half + doubled(self.grow1(x)), embedding)
        x = through(self.up0, full + doubled(self.grow0(x)), embedding)
        return self.last(F.silu(self.norm(x)))


@dataclass(frozen=True)
class Lifted:
    """The completed volume, which can be rendered into any camera.

    density:        [B, 1, G, G, G] before the softplus; axes z, y, x.
    occupancy:      [B, G, G, G] logits.
    color_features: [B, F, G, G, G].
    image_features: [B, C, R, R] of the input image.
    projection:     [B, 3, 4] of its camera.
    """

    density: Tensor
    occupancy: Tensor
    color_features: Tensor
    image_features: Tensor
    projection: Tensor


@dataclass(frozen=True)
class Picture:
    """The encoded input image, which does not depend on the noise.

    image:       [B, 4, R, R] in [-1, 1].
    projection:  [B, 3, 4] of its camera.
    features:    [B, C, R, R].
    vector:      [B, E], an embedding of the whole image.
    at_vertices: [B, G^3, C] features at the projection of each vertex.
    """

    image: Tensor
    projection: Tensor
    features: Tensor
    vector: Tensor
    at_vertices: Tensor


class ToysNetwork(nn.Module):
    """Estimates x0 of noisy views at any cameras, given one image of the object."""

    grid: Tensor  # [G^3, 3] world positions of the vertices, x fastest

    def __init__(self, size: Size):
        super().__init__()
        self.size = size
        self.dtype = torch.float32  # of the convolutions
        self.make_grid(torch.device("cpu"))
        wide = size.image_widths[0]
        self.image_encoder = ImageEncoder(size.image_widths, size.embedding)
        self.view_first = Conv(CHANNELS, size.view_width, 2)
        self.view_block = Block(size.view_width, size.view_width, 2)
        self.level = nn.Sequential(nn.Linear(33, size.embedding), nn.SiLU(), nn.Linear(size.embedding, size.embedding))
        self.no_image = nn.Parameter(torch.zeros(wide))
        self.volume_net = VolumeNet(wide + 2 * size.view_width + 8, 2 + size.color_features, size)
        with torch.no_grad():
            self.volume_net.last.bias[:2] = -3.0  # nearly empty at first
        inside = size.color_features + wide + CHANNELS
        self.color = nn.Sequential(nn.Linear(inside, 48), nn.SiLU(), nn.Linear(48, 32), nn.SiLU(), nn.Linear(32, 3))

    def make_grid(self, device: torch.device) -> None:
        """Compute the vertices' positions, which are not stored in weight files."""
        axis = torch.linspace(-self.size.half_side, self.size.half_side, self.size.grid, device=device)
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        self.register_buffer("grid", torch.stack([x, y, z], dim=-1).view(-1, 3), persistent=False)

    def look(self, image: Tensor, projection: Tensor) -> Picture:
        """Encode the input image [B, 4, R, R] in [-1, 1], with projection [B, 3, 4], as input of `lift`."""
        features, vector = self.image_encoder(image.to(self.dtype))
        pixels = project(projection, self.grid.expand(len(image), -1, -1))
        return Picture(image, projection, features, vector, sample_image(features, pixels).mT)

    def lift(
        self,
        picture: Picture,
        views: Tensor,
        projections: Tensor,
        sigma: Tensor,
        has_image: Tensor,
        has_views: Tensor,
    ) -> Lifted:
        """Lift image and views into the volume and complete it.

        views: [B, T, 4, R, R] noisy, with projections [B, T, 3, 4]. sigma: [B]. has_image, has_views: [B] bool; where
        False, the image or the views are ignored.
        """
        dtype = self.dtype
        nothing = self.no_image.to(dtype)
        features = torch.where(has_image[:, None, None, None], picture.features, nothing[:, None, None])
        seen = torch.where(has_image[:, None, None], picture.at_vertices.to(dtype), nothing)
        known = has_image.float()[:, None]
        embedding = F.silu(self.level(level_features(sigma, views.shape[1] * has_views)) + picture.vector * known)
        pooled = self._pooled(views, projections, sigma) * has_views.float()[:, None, None]
        place = self._place(picture.projection, sigma)
        g = self.size.grid
        x = torch.cat([seen, pooled.to(dtype), place.to(dtype)], dim=-1)
        volume = self.volume_net(x.view(len(views), g, g, g, -1).permute(0, 4, 1, 2, 3), embedding)
        image_features = torch.cat([features, picture.image * known[..., None, None]], dim=1)
        density, occupancy, color = volume.float().split([1, 1, self.size.color_features], dim=1)
        return Lifted(density, occupancy[:, 0], color, image_features.float(), picture.projection)

    def _pooled(self, views: Tensor, projections: Tensor, sigma: Tensor) -> Tensor:
        """Return mean and variance over the views of their features at each vertex, [B, G^3, 2 C]."""
        b, t = views.shape[:2]
        scaled = views / (sigma.square() + SIGMA_DATA**2).sqrt().view(-1, 1, 1, 1, 1)
        features = self.view_block(self.view_first(scaled.flatten(0, 1).to(self.dtype)))
        return lift(features.permute(0, 2, 3, 1).float().unflatten(0, (b, t)), projections, self.grid)

    def _place(self, projection: Tensor, sigma: Tensor) -> Tensor:
        """Return each vertex's position in the world and in the input image, and the noise level, [B, G^3, 8]."""
        b = len(projection)
        world = self.grid.expand(b, -1, -1)
        pixel = project(projection, world)
        depth = (world @ projection[:, 2, :3, None] + projection[:, 2:, 3:]) / projection[:, 2:, 3:] - 1
        radius = world.norm(dim=-1, keepdim=True)
        level = (0.25 * sigma.log()).view(-1, 1, 1).expand_as(radius)
        return torch.cat([world, pixel, depth, radius, level], dim=-1)

    def render(
        self, lifted: Lifted, origins: Tensor, directions: Tensor, samples: int, jitter: Tensor | None = None
    ) -> Tensor:
        """Render pixels [B, R, 4] in [-1, 1] of rays [B, R, 3] (unit directions), with `samples` samples in the cube.

        jitter: [B, R, samples] in [0, 1), the position of each sample in its interval; None: the middle.
        """
        first, step, inside = self._samples(origins, directions, samples, jitter)
        if jitter is None and first.device.type == "cpu" and not torch.is_grad_enabled():
            rows = zip(lifted.density[:, 0], first + 0.5 * step, step, strict=True)
            weights = torch.stack([ray_weights(raw, self.size.half_side, f, s, samples) for raw, f, s in rows])
        else:
            weights = self.weights(lifted, first[..., None, :] + inside[..., None] * step[..., None, :], step)
        opacity = weights.sum(-1, keepdim=True)
        rgb = self._colors(lifted, first, step, inside, weights) + (1 - opacity) * EMPTY[:3].to(weights)
        return torch.cat([rgb, 2 * opacity - 1], dim=-1)

    def _samples(
        self, origins: Tensor, directions: Tensor, samples: int, jitter: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rays' starts [B, R, 3], just outside the cube, steps [B, R, 3], and samples in steps [B, R, S]."""
        reach = self.size.half_side * REACH
        first = origins + directions * (-(origins * directions).sum(-1, keepdim=True) - reach)
        inside = torch.arange(samples, device=origins.device) + (0.5 if jitter is None else jitter)
        return first, directions * (2 * reach / samples), inside.expand(*origins.shape[:2], samples)

    def weights(self, lifted: Lifted, points: Tensor, step: Tensor) -> Tensor:
        """Return the compositing weights [B, R, S] of samples [B, R, S, 3]; steps [B, R, 3]."""
        density = self.density(lifted, points.flatten(1, 2)).view(points.shape[:-1])
        return ray_shares(density * step.norm(dim=-1, keepdim=True))

    def density(self, lifted: Lifted, points: Tensor) -> Tensor:
        """Return the density per world unit at points [B, N, 3], [B, N]; 0 outside the cube."""
        raw = sample_volume(lifted.density, points, self.size.half_side)[:, 0]
        inside = (points.abs() <= self.size.half_side).all(-1)
        voxel = 2 * self.size.half_side / (self.size.grid - 1)
        return torch.where(inside, F.softplus(raw) / voxel, 0.0)

    def _colors(self, lifted: Lifted, first: Tensor, step: Tensor, inside: Tensor, weights: Tensor) -> Tensor:
        """Return composited colours [B, R, 3] in [-1, 1]; samples with little weight are skipped."""
        out = []
        volumes, pictures = lifted.color_features.split(1), lifted.image_features.split(1)
        for i, (volume, picture) in enumerate(zip(volumes, pictures, strict=True)):
            ray, sample = torch.nonzero(weights[i].detach() > 1e-2, as_tuple=True)
            at = (first[i, ray] + inside[i, ray, sample][:, None] * step[i, ray])[None]
            one = sample_volume(volume, at, self.size.half_side)[0].T
            pixel = project(lifted.projection[i : i + 1], at)
            seen = sample_image(picture, pixel)[0].T
            color = torch.tanh(self.color(torch.cat([one, seen], dim=-1)).float())
            w = weights[i, ray, sample][:, None]
            out.append(torch.zeros_like(first[i]).index_add(0, ray, color * w))
        return torch.stack(out)


def sample_volume(volume: Tensor, points: Tensor, half_side: float) -> Tensor:
    """Sample volumes [B, C, G, G, G] (axes z, y, x) trilinearly at world points [B, N, 3]: [B, C, N]."""
    where = (points / half_side)[:, :, None, None]
    return F.grid_sample(volume, where, padding_mode="border", align_corners=True)[..., 0, 0]
