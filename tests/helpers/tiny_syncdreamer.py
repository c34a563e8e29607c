"""SyncDreamer in miniature: a weight file in the official layout, with random weights."""

import functools
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from helpers.tiny_sv3d import randomize, tiny_clip, tiny_vae
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.methods.syncdreamer.network import Size, SyncDreamerNetwork
from liftstudio.methods.syncdreamer.rig import Rig
from liftstudio.methods.syncdreamer.unet import UNetSize
from liftstudio.methods.syncdreamer.volumes import VolumeSize

# Sizes of the miniature that no shape reveals.
NUMBERS = {"num_heads": "4", "clip_head_channels": "16", "spatial_volume_size": "8", "frustum_volume_depth": "8"}
FOV_DEG = 2 * math.degrees(math.atan(128 / 280))  # of the official lens


def official_cameras(views: int, size: int, distance: float = 1.5) -> Cameras:
    """Return the official cameras for the given number of views."""
    azimuth_deg = 360 / views * torch.arange(views)
    return orbit_cameras(azimuth_deg, torch.full((views,), 30.0), distance, FOV_DEG, size, size)


def tiny_network(
    generator: torch.Generator,
    *,
    views: int = 4,
    channels: tuple[int, ...] = (32, 32, 64, 64),
    volume: tuple[int, ...] = (8, 8, 16, 16),
    attends: tuple[bool, ...] = (False, True, False, False),
    heads: int = 4,
) -> Any:
    """Return a random network; its weight names are the official ones."""
    unet = UNetSize(8, 4, channels, 1, attends, 1, heads, 24, volume)
    volumes = VolumeSize(views, 16, volume, 8, 8)
    return randomize(SyncDreamerNetwork(Size(unet, volumes, 20)), generator)


def tiny_buffers(views: int, size: int) -> dict[str, Tensor]:
    """Return cameras and noise schedule, as in the official file."""
    rig = Rig.of(official_cameras(views, size))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    schedule = {"betas": betas, "alphas_cumprod": (1 - betas).cumprod(0)}
    return {"poses": rig.poses, "Ks": rig.intrinsics, "azimuth": rig.azimuth} | {
        k: v.float() for k, v in schedule.items()
    }


def tiny_state(*, views: int = 4, image_size: int = 32, seed: int = 0, **sizes: Any) -> dict[str, Tensor]:
    """Return all weights of an official file in miniature: images of `image_size` pixels, latents a quarter."""
    generator = torch.Generator().manual_seed(seed)
    state = tiny_network(generator, views=views, **sizes).state_dict()
    state |= tiny_vae(generator, "first_stage_model.") | tiny_buffers(views, image_size)
    state |= tiny_clip(generator, "clip_image_encoder.model.visual.", 20)
    state["clip_image_encoder.model.logit_scale"] = torch.ones(())  # of the text tower: not used
    return {key: value.contiguous() for key, value in state.items()}


def write_tiny_syncdreamer(path: Path, **options: Any) -> Path:
    """Write an official file in miniature; for `options` see `tiny_state`."""
    path.write_bytes(_saved(**options))
    return path


@functools.cache
def _saved(**options: Any) -> bytes:
    return save(tiny_state(**options), metadata=NUMBERS)


def write_bright_weights(path: Path, seed: int) -> Path:
    """Write an official file in miniature whose random images are bright: parts are white, like a background."""
    state = tiny_state(views=16, image_size=32, seed=seed)
    state["first_stage_model.decoder.conv_out.weight"] *= 0.5
    state["first_stage_model.decoder.conv_out.bias"].fill_(0.9)  # of -1 to 1
    save_file(state, path, metadata=NUMBERS)
    return path
