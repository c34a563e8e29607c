"""The official SV3D file: its names, its sizes by the shapes in it, and its three networks."""

import re
from collections.abc import Iterable

import torch

from liftstudio.errors import InputError
from liftstudio.priors import latent_diffusion
from liftstudio.priors.latent_diffusion import (
    Part,
    Sources,
    check_all_used,
    clip_part,
    vae_part,
    weight_count,
    weight_shape,
)
from liftstudio.priors.weights import Weights

from .layout import CLIP, UNET, UNUSED, VAE, number, vector_width
from .network import SV3DUNet

_INPUT_BLOCK = re.compile(rf"{re.escape(UNET)}input_blocks\.(?P<block>\d+)\.(?P<part>.+)")
# What this network has besides that of other latent diffusion models.
_PARTS = {
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "temporal_res_block": "time_stack",
    "temporal_transformer_blocks": "time_stack",
    "time_pos_embed.linear_1": "time_pos_embed.0",
    "time_pos_embed.linear_2": "time_pos_embed.2",
}


def open_parts(weights: Weights) -> tuple[Part, Part, Part]:
    """U-Net, autoencoder and CLIP image tower of an official file, all checked, none read.

    Raises:
        InputError: a weight is missing, has another shape, or belongs to none of the three.
    """
    parts = (
        unet_part(weights),
        vae_part(weights, VAE),
        clip_part(weights, CLIP, number(weights, "clip_head_channels"), "gelu"),
    )
    for part in parts:
        part.check()
    check_all_used(weights, parts, UNUSED)
    return parts


def unet_part(weights: Weights) -> Part:
    """The denoising network; the width of its heads is what no shape tells."""
    width = vector_width(weights)
    found = [match for key in weights.shapes if (match := _INPUT_BLOCK.match(key))]
    levels = 1 + sum(match["part"] == "0.op.weight" for match in found)
    layers = len({match["block"] for match in found}) // levels - 1
    first = [f"{UNET}input_blocks.{1 + level * (layers + 1)}" for level in range(levels)]
    channels = [weight_shape(weights, f"{block}.0.in_layers.2.weight", 4)[0] for block in first]
    attends = [f"{block}.1.proj_in.weight" in weights for block in first]
    middle = f"{UNET}middle_block.1.transformer_blocks"
    depths = [weight_count(weights, f"{block}.1.transformer_blocks.") for block in first]
    depths[-1] = weight_count(weights, f"{middle}.")  # the middle block is built as the last level's
    with torch.device("meta"):
        module = SV3DUNet(
            in_channels=weight_shape(weights, f"{UNET}input_blocks.0.0.weight", 4)[1],
            out_channels=weight_shape(weights, f"{UNET}out.2.weight", 4)[0],
            block_out_channels=tuple(channels),
            layers_per_block=layers,
            down_block_types=tuple(f"{'CrossAttn' if a else ''}DownBlockSpatioTemporal" for a in attends),
            up_block_types=tuple(f"{'CrossAttn' if a else ''}UpBlockSpatioTemporal" for a in attends[::-1]),
            transformer_layers_per_block=tuple(max(depth, 1) for depth in depths),
            num_attention_heads=tuple(_heads(weights, count) for count in channels),
            cross_attention_dim=weight_shape(weights, f"{middle}.0.attn2.to_k.weight", 2)[1],
            projection_class_embeddings_input_dim=width,
        )
    return Part(module, weights, unet_sources(module.state_dict(), layers, attends))


def unet_sources(names: Iterable[str], layers: int, levels_with_attention: list[bool]) -> Sources:
    """Sources of the denoising network's weights; see `latent_diffusion.unet_sources`."""
    sources = latent_diffusion.unet_sources(names, layers, levels_with_attention, UNET, _PARTS)
    return {name: (key.replace("spatial_res_block.", ""), change) for name, (key, change) in sources.items()}


def _heads(weights: Weights, channels: int) -> int:
    name = "num_head_channels"
    width = number(weights, name)
    if channels % width:
        raise InputError(
            f"{weights.path}: heads of {width} channels do not divide {channels}; its metadata must say {name}"
        )
    return channels // width
