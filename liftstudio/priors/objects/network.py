"""A denoiser whose x0 is a rendering of the input image's frustum, filled by a 2D network.

Everything that the image shows lies on the rays of its pixels, so the output channels of a U-Net over the image can be
density and colour at planes of depth along these rays. Fronts are sharp by construction, the silhouette is the image's,
and 2D convolutions are cheap. (Planes in front of one camera are from Zhou et al. 2018, "Stereo Magnification"; x0 as a
volume rendering is from Szymanowicz et al. 2023, "Viewset Diffusion".) The noisy views enter as their mean and variance
at the cells of a coarser frustum. These are combined with the image's features twice: at the start, and cell by cell
at the end. Here, pixels are in [-1, 1], channels first, with four channels: rgb over white and alpha.
"""

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
from liftstudio.priors.objects.frustum import (
    REACH,
    cell_centers,
    centers,
    coordinates,
    frame_of,
    pixel_rays,
    sample_frustum,
    upright_axes,
)
from liftstudio.priors.objects.marching import render_rays
from liftstudio.priors.projections import ray_shares

CHANNELS = 4  # rgb over white, alpha
SIGMA_DATA = 0.5  # standard deviation of the pixels
SIGMA_BLIND = 10.0  # noise level far above which views are ignored
POOLED = (2, 8)  # pixels across the blocks that noisy views are averaged over: for detail, and against noise
SEEN = 2 * CHANNELS * len(POOLED)  # features of a cell: mean and variance over the views, per channel and block size
CLEAR = 1e-4  # lower bound of the alpha whose logarithm is added to a ray's logits
SHOWN = 1e-2  # compositing weight below which a sample's colour is skipped in training
CAMERA_FEATURES = 5  # of `camera_features`
PLACE_FEATURES = 8  # of `place_features`


@dataclass(frozen=True)
class Size:
    """The options that fix the network's shapes."""

    planes: Annotated[int, Range(2)] = 40  # density planes along each ray
    color_planes: Annotated[int, Range(2)] = 10  # colour planes along each ray
    view_planes: PositiveInt = 16  # planes of the coarser frustum of the views, at half resolution
    cell: PositiveInt = 8  # image features per cell of that frustum
    cell_hidden: PositiveInt = 24  # hidden channels that combine a cell's image features with those of the views
    full: PositiveInt = 16  # channels at full resolution, from the image and from coarser levels
    head: Multiple8 = 40  # channels that the planes are predicted from
    widths: tuple[Multiple8, Multiple8, HeadMultiple] = (48, 112, 192)  # channels at 1/2, 1/4 and 1/8 resolution
    down: tuple[NonNegativeInt, NonNegativeInt] = (1, 1)  # residual blocks at 1/2 and 1/4 resolution in the down path
    middle: PositiveInt = 2  # residual blocks at 1/8 resolution, with attention between them
    up: tuple[NonNegativeInt, NonNegativeInt] = (1, 2)  # residual blocks at 1/2 and 1/4 resolution in the up path
    embedding: PositiveInt = 192  # width of the embedding of noise level, number of views and camera


@dataclass(frozen=True)
class Picture:
    """The input image [B, 4, R, R] and its camera's projection [B, 3, 4]."""

    image: Tensor
    projection: Tensor


@dataclass(frozen=True)
class Lifted:
    """The filled frustum, which can be rendered into any camera.

    occupancy: [B, D, R, R] logits.
    density:   [B, D, R, R] before the softplus, after which it is per plane spacing.
    color:     [B, 3, K, R, R] in [-1, 1].
    frame:     [B, 4, 4] of the frustum.
    """

    occupancy: Tensor
    density: Tensor
    color: Tensor
    frame: Tensor


class ObjectsNetwork(nn.Module):
    """The denoiser; see the module's description."""

    def __init__(self, size: Size):
        super().__init__()
        self.size = size
        self.dtype = torch.float32  # of the convolutions
        (w0, w1, w2), e = size.widths, size.embedding
        self.embed = nn.Sequential(nn.Linear(33 + 1 + CAMERA_FEATURES, e), nn.SiLU(), nn.Linear(e, e))
        self.first = Conv(CHANNELS + PLACE_FEATURES, size.full, 2)
        self.shrink = Conv(size.full, w0, 2, kernel=2, stride=2)
        self.views = Conv(SEEN * size.view_planes, w0, 2, kernel=1)
        self.down0 = _blocks(size.down[0], w0, e)
        self.shrink0 = Conv(w0, w1, 2, kernel=2, stride=2)
        self.down1 = _blocks(size.down[1], w1, e)
        self.shrink1 = Conv(w1, w2, 2, kernel=2, stride=2)
        self.middle = _blocks(size.middle, w2, e)
        self.attention = nn.ModuleList(Attention(w2) for _ in range(size.middle - 1))
        self.grow1, self.grow0 = Conv(w2, w1, 2, kernel=1), Conv(w1, w0, 2, kernel=1)
        self.up1 = _blocks(size.up[1], w1, e)
        self.up0 = _blocks(size.up[0], w0, e)
        self.grow = Conv(w0, 4 * size.full, 2, kernel=1)
        self.merge, self.norm = Conv(2 * size.full, size.head, 2), nn.GroupNorm(8, size.head)
        self.last = Conv(size.head, 2 * size.planes + CHANNELS * size.color_planes, 2, kernel=1)
        self.cell_first = Conv(w0, size.cell * size.view_planes, 2, kernel=1)
        self.cell_hidden = Conv(size.cell + SEEN, size.cell_hidden, 2, kernel=1)
        self.cell_shift = nn.Linear(e, size.cell_hidden)
        self.cell_last = Conv(size.cell_hidden, 2 + CHANNELS, 2, kernel=1, gain=0.1)
        with torch.no_grad():
            self.last.bias[: 2 * size.planes] = _first_guess(size.planes).repeat(2)

    def look(self, image: Tensor, projection: Tensor) -> Picture:
        """Return the input image [B, 4, R, R] in [-1, 1] with its projection [B, 3, 4], as input of `lift`."""
        return Picture(image, projection)

    def lift(
        self,
        picture: Picture,
        views: Tensor,
        projections: Tensor,
        sigma: Tensor,
        has_image: Tensor,
        has_views: Tensor,
    ) -> Lifted:
        """Fill the frustum.

        views: [B, T, 4, R, R] noisy, with projections [B, T, 3, 4]. sigma: [B]. has_image, has_views: [B] bool; where
        False, the image or the views are ignored.
        """
        dtype = self.dtype
        image = picture.image * has_image.float().view(-1, 1, 1, 1)
        camera = camera_features(picture.projection)
        level = level_features(sigma, views.shape[1] * has_views)
        embedding = F.silu(self.embed(torch.cat([level, has_image.float()[:, None], camera], dim=1)))
        frame = frame_of(picture.projection)
        seen = self._seen(frame, views, projections, sigma, has_views)
        places = place_features(picture.projection, image.shape[-1])
        full = self.first(torch.cat([image, places], dim=1).to(dtype))
        half = through(self.down0, self.shrink(full) + self.views(seen.flatten(1, 2).to(dtype)), embedding)
        quarter = through(self.down1, self.shrink0(half), embedding)
        x = self.shrink1(quarter)
        for i, block in enumerate(self.middle):
            x = block(x, embedding)
            x = self.attention[i](x) if i < len(self.attention) else x
        x = through(self.up1, quarter + doubled(self.grow1(x)), embedding)
        x = through(self.up0, half + doubled(self.grow0(x)), embedding)
        cells = self._join_cells(x, seen, embedding)
        x = self.merge(torch.cat([full, F.pixel_shuffle(self.grow(x), 2)], dim=1))
        filled = self.last(F.silu(self.norm(x))).float()
        planes = self.size.planes
        logits, color = filled.split([2 * planes, filled.shape[1] - 2 * planes], dim=1)
        logits = _added(logits.unflatten(1, (2, -1)), cells[:, :2]) + _carved(image, has_image)[:, None]
        color = self._colors(_added(color.unflatten(1, (CHANNELS, -1)), cells[:, 2:]), image)
        return Lifted(logits[:, 0], logits[:, 1], color, frame)

    def _join_cells(self, x: Tensor, seen: Tensor, embedding: Tensor) -> Tensor:
        """Return what each cell adds to the two logits and to the colours, [B, 2 + 4, P, R / 2, R / 2].

        x: [B, C, R / 2, R / 2] image features. seen: [B, SEEN, P, R / 2, R / 2] features of the views.
        """
        of_picture = self.cell_first(x).unflatten(1, (self.size.cell, -1))
        cells = torch.cat([of_picture, seen.to(x.dtype)], dim=1).flatten(2, 3)
        shift = self.cell_shift(embedding).to(x.dtype)[:, :, None, None]
        return self.cell_last(F.silu(self.cell_hidden(cells) + shift)).float().unflatten(2, seen.shape[2:4])

    def _colors(self, raw: Tensor, image: Tensor) -> Tensor:
        """Return colours [B, 3, K, R, R] in [-1, 1]: predicted ones blended with the image's, copied along the ray."""
        own, copied = raw.split([3, 1], dim=1)
        return torch.lerp(torch.tanh(own), straight_colors(image)[:, :, None], torch.sigmoid(copied))

    def _seen(self, frame: Tensor, views: Tensor, projections: Tensor, sigma: Tensor, has_views: Tensor) -> Tensor:
        """Return mean and variance over the noisy views at cells of the frustum, [B, SEEN, P, R / 2, R / 2].

        Views are scaled to the same variance at all noise levels, but fade out where they are nothing but noise.
        """
        side = views.shape[-1] // 2
        points = cell_centers(frame, self.size.view_planes, side, side)
        scale = SIGMA_DATA / (sigma.square() + SIGMA_DATA**2).sqrt() / (1 + (sigma / SIGMA_BLIND).square())
        scaled = views.flatten(0, 1) * (has_views * scale).repeat_interleave(views.shape[1]).view(-1, 1, 1, 1)
        gathered = []
        for pixels in POOLED:
            features = F.avg_pool2d(scaled, pixels).unflatten(0, views.shape[:2]).permute(0, 1, 3, 4, 2)
            rows = zip(features.split(1), projections.split(1), points, strict=True)
            gathered.append(torch.cat([lift(feature, place, at.reshape(-1, 3)) for feature, place, at in rows]))
        return torch.cat(gathered, dim=-1).unflatten(1, points.shape[1:4]).permute(0, 4, 1, 2, 3)

    def render(
        self, lifted: Lifted, origins: Tensor, directions: Tensor, samples: int, jitter: Tensor | None = None
    ) -> Tensor:
        """Render pixels [B, N, 4] in [-1, 1] of rays [B, N, 3] (unit directions), with samples about the origin.

        samples: number per ray.
        jitter: [B, N, samples] in [0, 1), the position of each sample in its interval; None: the middle.
        """
        first = origins + directions * (-(origins * directions).sum(-1, keepdim=True) - REACH)
        step = directions * (2 * REACH / samples)
        if jitter is None and first.device.type == "cpu" and not torch.is_grad_enabled():
            rows = zip(lifted.density, lifted.color, lifted.frame, first + 0.5 * step, step, strict=True)
            return torch.stack([render_rays(*row, reach=REACH, samples=samples) for row in rows])
        inside = torch.arange(samples, device=origins.device) + (0.5 if jitter is None else jitter)
        points = first[:, :, None] + inside.expand(*origins.shape[:2], samples)[..., None] * step[:, :, None]
        where = coordinates(lifted.frame, points.flatten(1, 2))
        weights = _weights(lifted, where, points.shape[:3], 2 * REACH / samples)
        opacity = weights.sum(-1, keepdim=True)
        rgb = composited(lifted.color, where.view(*points.shape), weights) + (1 - opacity)
        return torch.cat([rgb, 2 * opacity - 1], dim=-1)


def _weights(lifted: Lifted, where: Tensor, shape: torch.Size, spacing: float) -> Tensor:
    """Return the compositing weight of each sample, [B, N, S]; spacing: world units between samples."""
    raw = sample_frustum(lifted.density[:, None], where)[:, 0]
    inside = (where.abs() <= 1).all(-1)
    density = torch.where(inside, F.softplus(raw), 0.0).view(shape) * (lifted.density.shape[1] / (2 * REACH))
    return ray_shares(density * spacing)


def composited(color: Tensor, where: Tensor, weights: Tensor) -> Tensor:
    """Composite colours of volumes [B, 3, K, R, R] at (u, v, s) [B, N, S, 3] with weights [B, N, S]: [B, N, 3].

    Samples with a weight below SHOWN are skipped where gradients are needed, which saves time and changes colours a
    little; without gradients all of them count.
    """
    least = SHOWN if torch.is_grad_enabled() else 0.0
    out = []
    for volume, places, shares in zip(color.split(1), where, weights, strict=True):
        ray, sample = torch.nonzero(shares.detach() > least, as_tuple=True)
        found = sample_frustum(volume, places[ray, sample][None])[0].T
        total = torch.zeros(len(shares), 3, device=found.device)
        out.append(total.index_add(0, ray, found * shares[ray, sample][:, None]))
    return torch.stack(out)


def camera_features(projection: Tensor) -> Tensor:
    """Return the network's inputs for a camera, [B, 5]: log zoom, distance, and the world's up in its axes."""
    right, down, forward = projection[:, 0, :3], projection[:, 1, :3], projection[:, 2, :3]
    return torch.cat([_zoom(projection)[:, None], 0.25 * projection[:, 2, 3:], _up(right, down, forward)], dim=1)


def _zoom(projection: Tensor) -> Tensor:
    """Return ln of the focal length in half image sizes, [B]."""
    across, forward = projection[:, 0, :3], projection[:, 2, :3]
    off_axis = (across * forward).sum(-1, keepdim=True)
    return (across - off_axis * forward).norm(dim=-1).log()


def _up(right: Tensor, down: Tensor, forward: Tensor) -> Tensor:
    """Return the world's z axis in a camera's axes, [B, 3], from the rows of its projection."""
    rows = (F.normalize(row - (row * forward).sum(-1, keepdim=True) * forward, dim=-1) for row in (right, down))
    return torch.stack([*(row[:, 2] for row in rows), forward[:, 2]], dim=1)


def straight_colors(image: Tensor) -> Tensor:
    """Return straight colours [B, 3, R, R] in [-1, 1] from colours over white; white on the background."""
    alpha = (0.5 * image[:, 3:] + 0.5).clamp(0.05, 1)
    return (1 + (image[:, :3] - 1) / alpha).clamp(-1, 1)


def _carved(image: Tensor, has_image: Tensor) -> Tensor:
    """Return what is added to the logits along each pixel's ray, [B, 1, R, R]: it empties rays of the background."""
    alpha = (0.5 * image[:, 3:] + 0.5).clamp(CLEAR, 1)
    return alpha.log() * has_image.float().view(-1, 1, 1, 1)


def _first_guess(planes: int) -> Tensor:
    """Return initial logits [D], which are highest at the depth of the origin."""
    return -0.5 - 6 * centers(planes).square()


def place_features(projection: Tensor, size: int) -> Tensor:
    """Return each pixel's position in the image, and its ray: [B, 8, size, size].

    The ray is given by the point where it meets the plane s = 0 and its direction, in the axes of a levelled camera.
    """
    axis = centers(size).to(projection)
    flat = torch.stack(torch.meshgrid(axis, axis, indexing="xy")).expand(len(projection), -1, -1, -1)
    rays = torch.stack([*pixel_rays(frame_of(projection), size, size)], dim=1)
    middle, way = (rays @ upright_axes(projection).mT[:, None, None]).unbind(1)
    world = torch.cat([middle, F.normalize(way, dim=-1)], dim=-1).permute(0, 3, 1, 2)
    return torch.cat([flat, world], dim=1)


def _blocks(count: int, width: int, embedding: int) -> nn.ModuleList:
    return nn.ModuleList(Block(width, width, 2, embedding) for _ in range(count))


def _added(fine: Tensor, coarse: Tensor) -> Tensor:
    """Add coarser volumes, interpolated trilinearly, to volumes [B, C, D, R, R]."""
    return fine + F.interpolate(coarse, fine.shape[2:], mode="trilinear")
