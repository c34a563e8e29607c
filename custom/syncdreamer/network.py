"""SyncDreamer's network: everything evaluated in a denoising step, under the names of the official file."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .rig import Rig
from .unet import DepthUNet, UNetSize, sinusoids, time_layers
from .volumes import VIEW_WIDTH, SpatialVolume, VolumeSize


@dataclass(frozen=True)
class Size:
    """The sizes that fix the network's shapes."""

    unet: UNetSize
    volume: VolumeSize
    embedding_width: int  # of the input image's CLIP embedding


class SyncDreamerNetwork(nn.Module):
    """Estimates the noise in one view from all noisy views and the input image (Liu et al. 2023, "SyncDreamer")."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.time_width = size.volume.time_width
        self.time_embed = time_layers(self.time_width, self.time_width)
        self.cc_projection = nn.Linear(size.embedding_width + VIEW_WIDTH, size.unet.context_width)
        self.spatial_volume = SpatialVolume(size.volume)
        self.model = nn.ModuleDict({"diffusion_model": DepthUNet(size.unet)})

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the network computes in."""
        return self.cc_projection.weight.dtype

    def embed_time(self, timestep: int) -> Tensor:
        """Embed a timestep for the volume networks, [1, T]."""
        steps = torch.tensor([timestep], device=self.cc_projection.weight.device)
        return self.time_embed(sinusoids(steps, self.time_width).to(self.dtype))

    def embed_context(self, embedding: Tensor, view: Tensor) -> Tensor:
        """Return the context [B, 1, D] from the input image's embedding [1, E] and the view embeddings [B, 4]."""
        both = torch.cat([embedding.expand(len(view), -1), view], dim=-1)
        return self.cc_projection(both.to(self.dtype))[:, None]

    def spatial(self, noisy: Tensor, time: Tensor, view: Tensor, rig: Rig) -> Tensor:
        """See `SpatialVolume.spatial`."""
        return self.spatial_volume.spatial(noisy.to(self.dtype), time, view.to(self.dtype), rig)

    def frustum(self, volume: Tensor, latent_size: int, time: Tensor, view: Tensor, rig: Rig) -> list[Tensor]:
        """See `SpatialVolume.frustum`."""
        return self.spatial_volume.frustum(volume, latent_size, time, view.to(self.dtype), rig)

    def forward(self, sample: Tensor, timestep: int, context: Tensor, volumes: list[Tensor]) -> Tensor:
        """Return the estimated noise [B, 4, h, w] float32; see `DepthUNet.forward`."""
        steps = torch.full((len(sample),), timestep, device=sample.device)
        return self.model["diffusion_model"](sample.to(self.dtype), steps, context, volumes).float()
