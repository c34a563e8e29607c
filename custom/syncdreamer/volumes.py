"""Networks from noisy views to a spatial volume, and from that to a volume in each view's frustum (sec. 3.3)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .rig import HALF_SIDE, Rig, vertices
from .unet import VOLUME_GROUPS

FEATURES = 16  # channels of an encoded view
VIEW_WIDTH = 4  # of the view embedding


@dataclass(frozen=True)
class VolumeSize:
    """The sizes that fix the shapes of the volume networks and of the volumes."""

    views: int  # the network depends on their number and order
    time_width: int
    channels: tuple[int, ...]  # at each of the four resolutions, the finest first
    vertices: int  # along each side of the spatial volume
    planes: int  # along the depth of a frustum volume


class ViewBlock(nn.Module):
    """A residual block over a view, shifted by its time and view embeddings [B, T] and [B, 4]."""

    def __init__(self, channels: int, time_width: int) -> None:
        super().__init__()
        self.time_embed = nn.Conv2d(time_width, channels, 1)
        self.view_embed = nn.Conv2d(VIEW_WIDTH, channels, 1)
        self.conv = nn.Sequential(*_norm_conv(channels), *_norm_conv(channels))

    def forward(self, x: Tensor, time: Tensor, view: Tensor) -> Tensor:
        return x + self.conv(x + self.time_embed(time[..., None, None]) + self.view_embed(view[..., None, None]))


class NoisyTargetViewEncoder(nn.Module):
    """Encodes noisy latents [B, 4, h, w] as features [B, 16, h, w]."""

    def __init__(self, time_width: int) -> None:
        super().__init__()
        self.init_conv = nn.Conv2d(4, FEATURES, 3, padding=1)
        self.out_conv0, self.out_conv1, self.out_conv2 = (ViewBlock(FEATURES, time_width) for _ in range(3))
        self.final_out = nn.Sequential(*_norm_conv(FEATURES))

    def forward(self, x: Tensor, time: Tensor, view: Tensor) -> Tensor:
        x = self.init_conv(x)
        for block in (self.out_conv0, self.out_conv1, self.out_conv2):
            x = block(x, time, view)
        return self.final_out(x)


class VolumeBlock(nn.Module):
    """A convolution of features [B, C, ...], shifted by the time embedding and optionally the view embedding."""

    def __init__(self, inside: int, outside: int, time_width: int, *, has_view: bool, stride: int = 1) -> None:
        super().__init__()
        self.t_conv = nn.Conv3d(time_width, inside, 1)
        self.v_conv = nn.Conv3d(VIEW_WIDTH, inside, 1) if has_view else None
        self.bn = nn.GroupNorm(VOLUME_GROUPS, inside)
        self.conv = nn.Conv3d(inside, outside, 3, stride, padding=1)

    def forward(self, x: Tensor, time: Tensor, view: Tensor | None = None) -> Tensor:
        return self.conv(F.silu(self.bn(_shifted(self, x, time, view))))


class VolumeUpBlock(nn.Module):
    """A `VolumeBlock` that doubles the resolution."""

    def __init__(self, inside: int, outside: int, time_width: int, *, has_view: bool) -> None:
        super().__init__()
        self.t_conv = nn.Conv3d(time_width, inside, 1)
        self.v_conv = nn.Conv3d(VIEW_WIDTH, inside, 1) if has_view else None
        self.norm = nn.GroupNorm(VOLUME_GROUPS, inside)
        self.conv = nn.ConvTranspose3d(inside, outside, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: Tensor, time: Tensor, view: Tensor | None = None) -> Tensor:
        return self.conv(F.silu(self.norm(_shifted(self, x, time, view))))


class SpatialTime3DNet(nn.Module):
    """A 3D U-Net over the spatial volume: [B, 16 N, V, V, V] to [B, C, V, V, V]."""

    def __init__(self, size: VolumeSize) -> None:
        super().__init__()
        d0, d1, d2, d3 = size.channels

        def block(inside: int, outside: int, stride: int = 1) -> VolumeBlock:
            return VolumeBlock(inside, outside, size.time_width, has_view=False, stride=stride)

        def up(inside: int, outside: int) -> VolumeUpBlock:
            return VolumeUpBlock(inside, outside, size.time_width, has_view=False)

        self.init_conv = nn.Conv3d(FEATURES * size.views, d0, 3, padding=1)
        self.conv0 = block(d0, d0)
        self.conv1, self.conv2_0, self.conv2_1 = block(d0, d1, 2), block(d1, d1), block(d1, d1)
        self.conv3, self.conv4_0, self.conv4_1 = block(d1, d2, 2), block(d2, d2), block(d2, d2)
        self.conv5, self.conv6_0, self.conv6_1 = block(d2, d3, 2), block(d3, d3), block(d3, d3)
        self.conv7, self.conv8, self.conv9 = up(d3, d2), up(d2, d1), up(d1, d0)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        full = self.conv0(self.init_conv(x), time)
        half = self.conv2_1(self.conv2_0(self.conv1(full, time), time), time)
        quarter = self.conv4_1(self.conv4_0(self.conv3(half, time), time), time)
        eighth = self.conv6_1(self.conv6_0(self.conv5(quarter, time), time), time)
        quarter = quarter + self.conv7(eighth, time)
        half = half + self.conv8(quarter, time)
        return full + self.conv9(half, time)


class FrustumTV3DNet(nn.Module):
    """A 3D U-Net over frustum volumes [B, C, D, L, L]; returns features at four resolutions, the finest first."""

    def __init__(self, size: VolumeSize) -> None:
        super().__init__()
        d0, d1, d2, d3 = size.channels

        def block(inside: int, outside: int, stride: int = 1) -> VolumeBlock:
            return VolumeBlock(inside, outside, size.time_width, has_view=True, stride=stride)

        def up(inside: int, outside: int) -> VolumeUpBlock:
            return VolumeUpBlock(inside, outside, size.time_width, has_view=True)

        self.conv0 = nn.Conv3d(d0, d0, 3, padding=1)
        self.conv1, self.conv2 = block(d0, d1, 2), block(d1, d1)
        self.conv3, self.conv4 = block(d1, d2, 2), block(d2, d2)
        self.conv5, self.conv6 = block(d2, d3, 2), block(d3, d3)
        self.up0, self.up1, self.up2 = up(d3, d2), up(d2, d1), up(d1, d0)

    def forward(self, x: Tensor, time: Tensor, view: Tensor) -> list[Tensor]:
        full = self.conv0(x)
        half = self.conv2(self.conv1(full, time, view), time, view)
        quarter = self.conv4(self.conv3(half, time, view), time, view)
        eighth = self.conv6(self.conv5(quarter, time, view), time, view)
        quarter = quarter + self.up0(eighth, time, view)
        half = half + self.up1(quarter, time, view)
        full = full + self.up2(half, time, view)
        return [full, half, quarter, eighth]


class SpatialVolume(nn.Module):
    """The three networks, and the resampling between them, for one object."""

    def __init__(self, size: VolumeSize) -> None:
        super().__init__()
        self.size = size
        self.target_encoder = NoisyTargetViewEncoder(size.time_width)
        self.spatial_volume_feats = SpatialTime3DNet(size)
        self.frustum_volume_feats = FrustumTV3DNet(size)

    def spatial(self, noisy: Tensor, time: Tensor, view: Tensor, rig: Rig) -> Tensor:
        """Compute the spatial volume [1, C, V, V, V] (axes z, y, x) of all noisy views [N, 4, h, w].

        time: [1, T]. view: [N, 4]. rig: of the N views.
        """
        encoded = self.target_encoder(noisy, time.expand(len(noisy), -1), view)
        return self.spatial_volume_feats(self.unproject(encoded, rig).flatten(0, 1)[None], time)

    def unproject(self, encoded: Tensor, rig: Rig) -> Tensor:
        """Sample the encoded views [N, 16, h, w] at each vertex: [N, 16, V, V, V]; 0 outside a view."""
        count = self.size.vertices
        where = rig.warp_coordinates(vertices(count, encoded.device), encoded.shape[-1])
        sampled = F.grid_sample(encoded.float(), where[:, :, None], align_corners=True)[..., 0]
        return sampled.to(encoded.dtype).unflatten(-1, (count, count, count))

    def frustum(self, volume: Tensor, latent_size: int, time: Tensor, view: Tensor, rig: Rig) -> list[Tensor]:
        """Compute features [B, C, D, h, w] of the frustums of B views, at four resolutions, the finest first.

        volume: [1, C, V, V, V]. time: [1, T]. view: [B, 4]. rig: of these views.
        """
        sampled = self.resample(volume, latent_size, rig)
        return self.frustum_volume_feats(sampled, time.expand(len(view), -1), view)

    def resample(self, volume: Tensor, latent_size: int, rig: Rig) -> Tensor:
        """Resample the spatial volume [1, C, V, V, V] in the frustums of B views: [B, C, D, L, L]; 0 outside it."""
        points = rig.frustum_points(self.size.planes, latent_size) / HALF_SIDE
        volumes = volume.float().expand(len(rig), -1, -1, -1, -1)
        return F.grid_sample(volumes, points, align_corners=True).to(volume.dtype)


def _norm_conv(channels: int) -> tuple[nn.Module, ...]:
    return nn.GroupNorm(VOLUME_GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)


def _shifted(block: VolumeBlock | VolumeUpBlock, x: Tensor, time: Tensor, view: Tensor | None) -> Tensor:
    x = x + block.t_conv(time[..., None, None, None])
    if block.v_conv is not None:
        assert view is not None
        x = x + block.v_conv(view[..., None, None, None])
    return x
