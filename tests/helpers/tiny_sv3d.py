"""SV3D in miniature: a weight file in the official layout, with random weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from liftstudio.methods.sv3d import checkpoint
from liftstudio.methods.sv3d.network import SV3DUNet
from liftstudio.priors.latent_diffusion import clip_sources, make_vae, official_state, vae_sources

# Sizes of the miniature that no shape reveals.
NUMBERS = {"num_head_channels": "16", "clip_head_channels": "16", "image_size": "32", "num_frames": "5"}


def randomize(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Set random non-zero weights that every output depends on."""
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        scale = 0.2 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        parameter.data = scale * noise + (1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0)
    return module.eval()


def tiny_unet(
    generator: torch.Generator,
    *,
    vector_width: int = 1280,
    channels: tuple[int, ...] = (32, 64),
    layers: int = 1,
    attends: tuple[bool, ...] = (True, False),
    head_channels: int = 16,
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a random network and its official weights; `attends` and `channels` from the finest level on."""
    unet = SV3DUNet(
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=tuple(f"{'CrossAttn' if a else ''}DownBlockSpatioTemporal" for a in attends),
        up_block_types=tuple(f"{'CrossAttn' if a else ''}UpBlockSpatioTemporal" for a in attends[::-1]),
        num_attention_heads=tuple(c // head_channels for c in channels),
        cross_attention_dim=32,
        projection_class_embeddings_input_dim=vector_width,
    )
    randomize(unet, generator)
    return unet, official_state(unet, checkpoint.unet_sources(unet.state_dict(), layers, list(attends)))


def tiny_vae(generator: torch.Generator, prefix: str) -> dict[str, Tensor]:
    """Return official weights of an autoencoder that halves images twice, under `prefix`."""
    vae = make_vae((32, 32, 64), 1, 4)
    return official_state(randomize(vae, generator), vae_sources(vae.state_dict(), 3, prefix))


def tiny_tower(generator: torch.Generator, embedding: int) -> Any:
    """Return a random CLIP image tower for 28 x 28 pixels, with its projection."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = CLIPVisionConfig(**sizes, patch_size=14, image_size=28, projection_dim=embedding)
    return randomize(CLIPVisionModelWithProjection(config), generator)


def tiny_clip(generator: torch.Generator, prefix: str, embedding: int) -> dict[str, Tensor]:
    """Return official weights of such a tower, under `prefix`."""
    tower = tiny_tower(generator, embedding)
    return official_state(tower, clip_sources(tower.state_dict(), prefix))


def write_tiny_sv3d(path: Path, *, variant: str = "p", image_size: int = 32, frames: int = 5, seed: int = 0) -> Path:
    """Write an official file in miniature: variant "p" or "u", images of `image_size` pixels, latents a quarter."""
    generator = torch.Generator().manual_seed(seed)
    state = tiny_unet(generator, vector_width=1280 if variant == "p" else 256)[1]
    state |= tiny_vae(generator, "conditioner.embedders.1.encoder.")
    state |= tiny_clip(generator, "conditioner.embedders.0.open_clip.model.visual.", 32)
    state["conditioner.embedders.0.open_clip.model.logit_scale"] = torch.ones(())  # of the text tower: not used
    save_file(state, path, metadata={**NUMBERS, "image_size": str(image_size), "num_frames": str(frames)})
    return path
