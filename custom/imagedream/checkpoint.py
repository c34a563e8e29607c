"""The weight files of ImageDream and MVDream: their networks, sized by the shapes of weights.

The official file contains the denoising network, image adaptor, autoencoder and, judging by its code, CLIP's image and
text encoders. Its public conversion is the folder of a diffusers pipeline. What a file lacks is read from folders
written by diffusers and transformers.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from liftstudio.core.errors import InputError
from liftstudio.core.weights import Weights, unloaded
from liftstudio.priors.latent_diffusion import (
    HALVES,
    Part,
    Sources,
    check_all_used,
    clip_part,
    head_count,
    replace_parts,
    same,
    unet_sizes,
    unet_sources,
    vae_part,
    weight_count,
    weight_shape,
)
from liftstudio.priors.network_folders import autoencoder_part, image_tower_part

from .layout import (
    CAMERA,
    CLIP,
    EXPECTED_TOWER,
    EXPECTED_VAE,
    UNUSED,
    VAES,
    adaptor_kind,
    image_prefix,
    number,
    takes_image,
    unet_prefix,
)

# Parts that the UNets of other latent diffusion models do not have.
UNET_PARTS = {
    "class_embedding.linear_1": "camera_embed.0",
    "class_embedding.linear_2": "camera_embed.2",
    "processor.to_k_ip": "to_k_ip",
    "processor.to_v_ip": "to_v_ip",
}
_ADAPTOR_PARTS = {
    "ln0": "0.norm1",
    "ln1": "0.norm2",
    "attn.to_q": "0.to_q",
    "attn.to_k": "0.to_kv",
    "attn.to_v": "0.to_kv",
    "attn.to_out.0": "0.to_out",
    "ff.0": "1.0",
    "ff.1.net.0.proj": "1.1",
    "ff.1.net.2": "1.3",
}


_MLP_PARTS = {"ff.net.0.proj": "proj.0", "ff.net.2": "proj.2", "norm": "proj.3"}


@dataclass(frozen=True)
class Parts:
    """The networks; adaptor and image tower only if the model takes an image."""

    unet: Part
    vae: Part
    adaptor: Part | None
    tower: Part | None


@dataclass(frozen=True)
class Elsewhere:
    """Local or hub folders of parts that the file may lack; "": the file has it.

    vae:   a diffusers `AutoencoderKL`.
    tower: a transformers CLIP (vision) model.
    """

    vae: str
    tower: str


def open_parts(weights: Weights, image_weight: float, elsewhere: Elsewhere) -> Parts:
    """Return all networks but the text encoder, checked but not loaded.

    Args:
        weights: of the file with the denoising network.
        image_weight: of the attention to the image tokens.
        elsewhere: folders of the other parts.

    Raises:
        InputError: a weight is missing, has the wrong shape, or belongs to no network.
    """
    vae = autoencoder_part(elsewhere.vae, EXPECTED_VAE) if elsewhere.vae else vae_part(weights, vae_prefix(weights))
    adaptor = tower = None
    if takes_image(weights):
        adaptor, tower = adaptor_part(weights, image_prefix(weights)), _tower_part(weights, elsewhere.tower)
    unet = unet_part(weights, image_weight, tower)
    parts = Parts(unet, vae, adaptor, tower)
    all_parts = [part for part in (unet, adaptor, vae, tower) if part]
    for part in all_parts:
        part.check()
    _check_widths(weights, parts)
    check_all_used(weights, all_parts, _ignored_weights(parts))
    return parts


def has_vae(weights: Weights) -> bool:
    """Return whether the file has an autoencoder."""
    return any(key.startswith(VAES) for key in weights.shapes)


def has_tower(weights: Weights) -> bool:
    """Return whether the file has an image tower."""
    return any(key.startswith(CLIP) for key in weights.shapes)


def vae_prefix(weights: Weights) -> str:
    """Return the key prefix of the file's autoencoder."""
    return next((prefix for prefix in VAES for key in weights.shapes if key.startswith(prefix)), VAES[0])


def _tower_part(weights: Weights, elsewhere: str) -> Part:
    if elsewhere:
        return image_tower_part(
            elsewhere, EXPECTED_TOWER, projected=adaptor_kind(weights, image_prefix(weights)) == "global"
        )
    return file_clip_part(weights)


def _image_tokens(weights: Weights, tower: Part | None) -> int:
    """Return the number of tokens that the adaptor makes of an image; 0 without an adaptor."""
    if not takes_image(weights):
        return 0
    prefix = image_prefix(weights)
    kind = adaptor_kind(weights, prefix)
    if kind == "resampler":
        return weight_shape(weights, f"{prefix}latents", 3)[1]
    if kind == "global":
        width = weight_shape(weights, f"{prefix}norm.weight", 1)[0]
        return weight_shape(weights, f"{prefix}proj.weight", 2)[0] // width
    assert tower is not None, "an mlp makes a token of each of the tower's"
    config = tower.module.config
    return (config.image_size // config.patch_size) ** 2 + 1


def unet_part(weights: Weights, image_weight: float = 1.0, tower: Part | None = None) -> Part:
    """Return the denoising network; its head width comes from metadata, as no shape reveals it.

    Args:
        weights: of the file.
        image_weight: of the attention to the image tokens.
        tower: the image tower, whose tokens an adaptor without a resampler keeps.

    Raises:
        InputError: a weight that determines a size is missing or has an impossible shape.
    """
    from .network import MultiViewUNet

    prefix = unet_prefix(weights)
    sizes = unet_sizes(weights, prefix)
    has_heads = [*sizes.attends[:-1], True]  # the middle, as wide as the coarsest level, always attends
    heads = [
        _heads(weights, "num_head_channels", channels) if attends else 1
        for channels, attends in zip(sizes.channels, has_heads, strict=True)
    ]
    with unloaded():
        module = MultiViewUNet(
            **sizes.options("Block2D"),
            image_tokens=_image_tokens(weights, tower),
            image_weight=image_weight,
            attention_head_dim=tuple(heads),  # the number of heads, despite its name
            use_linear_projection=True,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=weight_shape(weights, prefix + CAMERA, 2)[1],
        )
    return Part(module, weights, unet_sources(module.state_dict(), sizes.layers, sizes.attends, prefix, UNET_PARTS))


def adaptor_part(weights: Weights, prefix: str) -> Part:
    """Return the image adaptor, which maps what the image tower sees to tokens beside the text's.

    Raises:
        InputError: a weight that determines a size is missing or has an impossible shape.
    """
    kinds = {"resampler": _resampler_part, "mlp": _mlp_part, "global": _global_part}
    return kinds[adaptor_kind(weights, prefix)](weights, prefix)


def _global_part(weights: Weights, prefix: str) -> Part:
    """Return IP-Adapter's projection of the image's embedding to a few tokens (Ye et al. 2023, sec. 3.2.1)."""
    from diffusers.models.embeddings import ImageProjection

    width = weight_shape(weights, f"{prefix}norm.weight", 1)[0]
    rows, embedding = weight_shape(weights, f"{prefix}proj.weight", 2)
    with unloaded():
        module: Any = ImageProjection(embedding, width, rows // width)
    return Part(module, weights, renamed(module.state_dict(), prefix, {"image_embeds": "proj"}))


def _mlp_part(weights: Weights, prefix: str) -> Part:
    """Return IP-Adapter's perceptron for each of the image tower's tokens, with its names of weights."""
    from diffusers.models.embeddings import IPAdapterFullImageProjection

    width, embedding = weight_shape(weights, f"{prefix}proj.2.weight", 2)
    with unloaded():
        module: Any = IPAdapterFullImageProjection(embedding, width)
    return Part(module, weights, renamed(module.state_dict(), prefix, _MLP_PARTS))


def renamed(names: Iterable[str], prefix: str, parts: dict[str, str]) -> Sources:
    """Return the sources of weights that only differ in their names."""
    return {name: (prefix + replace_parts(name, parts), same) for name in names}


def _resampler_part(weights: Weights, prefix: str) -> Part:
    from diffusers.models.embeddings import IPAdapterPlusImageProjection

    _, queries, width = weight_shape(weights, f"{prefix}latents", 3)
    heads = _heads(weights, "adaptor_head_channels", weight_shape(weights, f"{prefix}layers.0.0.to_q.weight", 2)[0])
    with unloaded():
        module: Any = IPAdapterPlusImageProjection(
            embed_dims=weight_shape(weights, f"{prefix}proj_in.weight", 2)[1],
            output_dims=weight_shape(weights, f"{prefix}proj_out.weight", 2)[0],
            hidden_dims=width,
            depth=weight_count(weights, f"{prefix}layers."),
            dim_head=number(weights, "adaptor_head_channels"),
            heads=heads,
            num_queries=queries,
            ffn_ratio=weight_shape(weights, f"{prefix}layers.0.1.1.weight", 2)[0] / width,
        )
    return Part(module, weights, adaptor_sources(module.state_dict(), prefix))


def adaptor_sources(names: Iterable[str], prefix: str) -> Sources:
    """Return the sources of the image adaptor's weights; the original file has key and value in one matrix."""
    half = {"attn.to_k.weight": HALVES[0], "attn.to_v.weight": HALVES[1]}
    return {name: (prefix + replace_parts(name, _ADAPTOR_PARTS), half.get(name[-16:], same)) for name in names}


def file_clip_part(weights: Weights) -> Part:
    """Return the image tower in an official file."""
    return clip_part(weights, CLIP, number(weights, "clip_head_channels"), "gelu")


def _check_widths(weights: Weights, parts: Parts) -> None:
    """Raise an InputError unless the output of each network is as wide as the input of the next one."""
    expected, found = parts.unet.module.config.in_channels, parts.vae.module.config.latent_channels
    if found != expected:
        raise InputError(
            f"{parts.vae.weights.path}: expected {expected} latent channels, as {weights.path} has, got {found}"
        )
    if parts.adaptor is None or parts.tower is None:
        return
    expected = next(each for each in parts.adaptor.module.modules() if isinstance(each, nn.Linear)).in_features
    config = parts.tower.module.config
    found = config.projection_dim if adaptor_kind(weights, image_prefix(weights)) == "global" else config.hidden_size
    if found != expected:
        raise InputError(
            f"{parts.tower.weights.path}: expected image tokens of width {expected}, as {weights.path} takes, "
            f"got {found}"
        )


def _ignored_weights(parts: Parts) -> re.Pattern[str]:
    """Return a pattern of weights to ignore: those not needed, and those of parts read from elsewhere or unused."""
    others = [*([CLIP] if parts.tower is None or parts.tower.weights is not parts.unet.weights else [])]
    others += [*(VAES if parts.vae.weights is not parts.unet.weights else [])]
    return re.compile("|".join([UNUSED.pattern, *map(re.escape, others)]))


def _heads(weights: Weights, name: str, channels: int) -> int:
    return head_count(weights, name, number(weights, name), channels)
