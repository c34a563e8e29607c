"""SV3D's three networks, of any size, for training; and their file in the official layout."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from liftstudio.core.checks import check_multiples
from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_path
from liftstudio.core.ranges import MinLength, PositiveInt, Range
from liftstudio.core.weights import Weights, load_module
from liftstudio.priors.latent_diffusion import Sources, clip_sources, make_vae, official_state, vae_sources
from liftstudio.priors.latent_prior import LATENT_SCALE
from liftstudio.training.moments import mean_and_deviation, measure, standardized, unit_moments

from .checkpoint import unet_sources
from .conditioning import ANGLE_WIDTH, COND_AUG_WIDTH
from .layout import CLIP, VAE, number
from .network import SV3DUNet

LATENT_CHANNELS = 4
VECTOR_WIDTH = COND_AUG_WIDTH + 2 * ANGLE_WIDTH  # of the variant that is conditioned on cameras
GROUPS = 32  # of the group norms: every width is a multiple of this

Widths = Annotated[tuple[Annotated[int, Range(multiple_of=GROUPS)], ...], MinLength(1)]


@dataclass(frozen=True)
class Size:
    """The options that fix the networks' shapes."""

    widths: Widths = (64, 128)  # channels of the denoising network, per level, the finest first
    layers: PositiveInt = 1  # residual blocks of the denoising network per level
    head_width: PositiveInt = 64  # channels per attention head of the denoising network
    autoencoder_widths: Widths = (32, 64, 64)  # channels per level, the finest first; each next level has half the size
    autoencoder_layers: PositiveInt = 1  # residual blocks of the autoencoder per level
    tower_width: PositiveInt = 96  # channels of the image tower
    tower_layers: PositiveInt = 3  # transformer blocks of the image tower
    tower_head_width: PositiveInt = 32  # channels per attention head of the image tower
    patch: PositiveInt = 8  # pixels across a patch of the image tower
    embedding: PositiveInt = 96  # width of the image tower's embedding

    def __post_init__(self) -> None:
        check_multiples("widths", self.widths, self.head_width)
        check_multiples("tower_width", (self.tower_width,), self.tower_head_width)

    @property
    def shrink(self) -> int:
        """Factor between the resolutions of images and latents."""
        return 2 ** (len(self.autoencoder_widths) - 1)

    @property
    def heads(self) -> dict[str, int]:
        """Head sizes, which no shape in the file reveals, by their names in the file's metadata."""
        return {"num_head_channels": self.head_width, "clip_head_channels": self.tower_head_width}

    def check_resolution(self, resolution: int) -> None:
        """Raise an InputError if the networks' levels and patches do not divide the image resolution."""
        for factor in (self.shrink * 2 ** (len(self.widths) - 1), self.patch):
            if resolution % factor:
                raise InputError(
                    f"data.resolution: expected a multiple of {factor} for this task.size, got {resolution}"
                )


class TrainableSV3D(nn.Module):
    """Denoising network, autoencoder and image tower, initialised with random weights.

    While the autoencoder is trained, its latents have an arbitrary scale. They are normalised to mean 0 and standard
    deviation 1 per channel by their measured moments. In the file this is part of the autoencoder, so that the official
    scale fits.
    """

    steps: Tensor  # [] training steps so far
    moments: Tensor  # [2, 4] mean and mean square of each channel of the autoencoder's latents

    def __init__(self, size: Size, resolution: int) -> None:
        """Build the networks; resolution: pixels across the images."""
        super().__init__()
        self.size, self.resolution = size, resolution
        self.unet = _make_unet(size)
        self.autoencoder = make_vae(size.autoencoder_widths, size.autoencoder_layers, LATENT_CHANNELS)
        self.tower = _make_tower(size, resolution)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("moments", unit_moments(LATENT_CHANNELS))

    def encode(self, images: Tensor) -> Tensor:
        """Encode images [B, 3, R, R] in [-1, 1] to the mode of their latents, [B, 4, h, w] float32, normalised."""
        mean, deviation = (values[:, None, None] for values in mean_and_deviation(self.moments))
        return (self.autoencoder.encode(images).latent_dist.mode().float() - mean) / deviation

    def measure(self, latents: Tensor) -> None:
        """Update the moments with latents [B, 4, h, w] of the autoencoder, not normalised."""
        measure(self.moments, latents, self.steps)

    def load(self, weights: Weights) -> None:
        """Continue from a file in the official layout; its autoencoder is taken as fully trained.

        Raises:
            InputError: the file does not have this size.
        """
        for name, value in self.size.heads.items():
            if number(weights, name) != value:
                raise InputError(f"{weights.path}: its {name} is {number(weights, name)}, but task.size has {value}")
        for module, sources in self._parts(self.autoencoder):
            load_module(module, weights, sources, torch.float32, torch.device("cpu"))
        self.requires_grad_(True).train()
        self.moments.copy_(torch.tensor([[0.0], [LATENT_SCALE**-2]]).expand_as(self.moments))

    def write(self, path: Path, frames: int) -> None:
        """Write the official layout in float16. frames: number of views trained on together, for the metadata."""
        state: dict[str, Tensor] = {}
        for module, sources in self._parts(standardized(self.autoencoder, self.moments)):
            state |= official_state(module, sources)
        half = {key: value.detach().cpu().half().contiguous() for key, value in state.items()}
        numbers = {**self.size.heads, "image_size": self.resolution, "num_frames": frames}
        with atomic_path(path) as temporary:
            save_file(half, temporary, {name: str(value) for name, value in numbers.items()})

    def _parts(self, autoencoder: Any) -> Iterator[tuple[Any, Sources]]:
        """Yield the networks, with this autoencoder, and the sources of their weights in a file."""
        size = self.size
        yield self.unet, unet_sources(self.unet.state_dict(), size.layers, [True] * len(size.widths))
        yield autoencoder, vae_sources(autoencoder.state_dict(), len(size.autoencoder_widths), VAE)
        yield self.tower, clip_sources(self.tower.state_dict(), CLIP)


def _make_unet(size: Size) -> Any:
    levels = len(size.widths)
    return SV3DUNet(
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=size.widths,
        layers_per_block=size.layers,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * levels,
        up_block_types=("CrossAttnUpBlockSpatioTemporal",) * levels,
        num_attention_heads=tuple(width // size.head_width for width in size.widths),
        cross_attention_dim=size.embedding,
        projection_class_embeddings_input_dim=VECTOR_WIDTH,
    )


def _make_tower(size: Size, resolution: int) -> Any:
    config = CLIPVisionConfig(
        hidden_size=size.tower_width,
        intermediate_size=4 * size.tower_width,
        num_hidden_layers=size.tower_layers,
        num_attention_heads=size.tower_width // size.tower_head_width,
        patch_size=size.patch,
        image_size=resolution,
        projection_dim=size.embedding,
        hidden_act="gelu",
    )
    return CLIPVisionModelWithProjection(config)
