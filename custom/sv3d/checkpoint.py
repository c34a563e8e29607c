"""The official SV3D file: its names, sizes (read from shapes) and three networks."""

from collections.abc import Iterable, Sequence

from liftstudio.core.weights import Weights, unloaded
from liftstudio.priors import latent_diffusion
from liftstudio.priors.latent_diffusion import (
    Part,
    Sources,
    check_all_used,
    clip_part,
    head_count,
    unet_sizes,
    vae_part,
)

from .layout import CLIP, UNET, UNUSED, VAE, number, vector_width
from .network import SV3DUNet

# Parts of this network that other latent diffusion models do not have.
_PARTS = {
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "temporal_res_block": "time_stack",
    "temporal_transformer_blocks": "time_stack",
    "time_pos_embed.linear_1": "time_pos_embed.0",
    "time_pos_embed.linear_2": "time_pos_embed.2",
}


def open_parts(weights: Weights) -> tuple[Part, Part, Part]:
    """Open U-Net, autoencoder and CLIP image tower of an official file; they are checked, but no weight is read.

    Raises:
        InputError: a weight is missing, has the wrong shape, or belongs to none of the three.
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
    """Return the denoising network; the width of its attention heads is not determined by shapes.

    Raises:
        InputError: a weight that determines a size is missing or has an impossible shape.
    """
    width, sizes = vector_width(weights), unet_sizes(weights, UNET)
    name = "num_head_channels"
    heads = [head_count(weights, name, number(weights, name), count) for count in sizes.channels]
    with unloaded():
        module = SV3DUNet(
            **sizes.options("BlockSpatioTemporal"),
            num_attention_heads=tuple(heads),
            projection_class_embeddings_input_dim=width,
        )
    return Part(module, weights, unet_sources(module.state_dict(), sizes.layers, sizes.attends))


def unet_sources(names: Iterable[str], layers: int, levels_with_attention: Sequence[bool]) -> Sources:
    """Return the sources of the denoising network's weights; see `latent_diffusion.unet_sources`."""
    sources = latent_diffusion.unet_sources(names, layers, levels_with_attention, UNET, _PARTS)
    return {name: (key.replace("spatial_res_block.", ""), change) for name, (key, change) in sources.items()}
