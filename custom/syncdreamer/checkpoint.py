"""The official SyncDreamer file: its sizes (read from shapes) and three networks."""

import re
from dataclasses import dataclass

from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.weights import Weights, unloaded
from liftstudio.priors.latent_diffusion import (
    Part,
    check_all_used,
    clip_part,
    output_channels,
    same,
    vae_part,
    weight_count,
    weight_shape,
)
from liftstudio.priors.parameterization import sigma_from_alpha_bar

from .layout import BUFFERS, CLIP, FIRST, UNET, UNUSED, VAE, VOLUME, is_syncdreamer, number
from .network import Size, SyncDreamerNetwork
from .unet import UNetSize
from .volumes import FEATURES, VIEW_WIDTH, VolumeSize

_IN_NO_PART = re.compile(f"{UNUSED.pattern}|({'|'.join(BUFFERS)})$")
_FACTOR = 8  # by which the networks downsample volumes


@dataclass(frozen=True)
class Parts:
    """The three networks of a file."""

    network: Part
    vae: Part
    clip: Part


def open_parts(weights: Weights) -> Parts:
    """Open network, autoencoder and CLIP image tower of an official file; they are checked, but no weight is read.

    Raises:
        InputError: a weight is missing, has the wrong shape, or belongs to none of the three; or they do not match.
    """
    if not is_syncdreamer(weights):
        raise InputError(f"{weights.path}: not SyncDreamer's weights in their official layout: '{FIRST}' is missing")
    _check_buffers(weights)
    _check_widths(weights)
    parts = Parts(
        network_part(weights),
        vae_part(weights, VAE),
        clip_part(weights, CLIP, number(weights, "clip_head_channels"), "quick_gelu"),
    )
    all_parts = (parts.network, parts.vae, parts.clip)
    for part in all_parts:
        part.check()
    check_all_used(weights, all_parts, _IN_NO_PART)
    return parts


def noise_levels(weights: Weights) -> Tensor:
    """Return the noise level of each timestep of a file, [T] float64.

    Raises:
        InputError: its cumulative alphas do not decrease.
    """
    alpha_bars = weights["alphas_cumprod"].double()
    if not bool((alpha_bars.diff() < 0).all() and (alpha_bars > 0).all() and (alpha_bars < 1).all()):
        raise InputError(f"{weights.path}: 'alphas_cumprod': expected decreasing values between 1 and 0")
    return sigma_from_alpha_bar(alpha_bars)


def network_part(weights: Weights) -> Part:
    """Return the denoising network, in which all names are the official ones.

    Raises:
        InputError: a weight that determines a size is missing or has an impossible shape.
    """
    size = Size(unet_size(weights), volume_size(weights), _embedding_width(weights))
    with unloaded():
        module = SyncDreamerNetwork(size)
    return Part(module, weights, {name: (name, same) for name in module.state_dict()})


def unet_size(weights: Weights) -> UNetSize:
    """Return the sizes of the UNet; the number of attention heads is not determined by shapes."""
    volume_channels = _volume_channels(weights)
    levels, blocks = len(volume_channels), weight_count(weights, f"{UNET}input_blocks.")
    if blocks % levels or blocks == levels:
        raise InputError(f"{weights.path}: {blocks} '{UNET}input_blocks' do not make {levels} resolutions")
    layers = blocks // levels - 1
    first = [f"{UNET}input_blocks.{1 + level * (layers + 1)}" for level in range(levels)]
    heads = number(weights, "num_heads")
    channels = [output_channels(weights, f"{block}.0.in_layers.2.weight", 4, 32, heads) for block in first]
    middle = f"{UNET}middle_block.1.transformer_blocks"
    return UNetSize(
        in_channels=weight_shape(weights, f"{UNET}input_blocks.0.0.weight", 4)[1],
        out_channels=weight_shape(weights, f"{UNET}out.2.weight", 4)[0],
        channels=tuple(channels),
        layers=layers,
        attends=tuple(any(key.startswith(f"{block}.1.") for key in weights.shapes) for block in first),
        depth=weight_count(weights, f"{middle}."),
        heads=heads,
        context_width=weight_shape(weights, f"{middle}.0.attn2.to_k.weight", 2)[1],
        volume_channels=volume_channels,
    )


def volume_size(weights: Weights) -> VolumeSize:
    """Return the sizes of the volume networks; the resolutions of the volumes are not determined by shapes."""
    return VolumeSize(
        views=weight_shape(weights, "poses", 3)[0],
        time_width=weight_shape(weights, "time_embed.0.weight", 2)[1],
        channels=_volume_channels(weights),
        vertices=_resolution(weights, "spatial_volume_size"),
        planes=_resolution(weights, "frustum_volume_depth"),
    )


def _volume_channels(weights: Weights) -> tuple[int, ...]:
    names = ("conv0.weight", "conv1.conv.weight", "conv3.conv.weight", "conv5.conv.weight")
    return tuple(output_channels(weights, f"{VOLUME}frustum_volume_feats.{name}", 5, 8) for name in names)


def _embedding_width(weights: Weights) -> int:
    return weight_shape(weights, "cc_projection.weight", 2)[1] - VIEW_WIDTH


def _resolution(weights: Weights, name: str) -> int:
    value = number(weights, name)
    if value % _FACTOR:
        raise InputError(f"{weights.path}: metadata '{name}': expected a multiple of {_FACTOR}, got {value}")
    return value


def _check_buffers(weights: Weights) -> None:
    """Raise an InputError for cameras or a noise schedule of the wrong shape."""
    views = weight_shape(weights, "poses", 3)[0]
    steps = weight_shape(weights, "alphas_cumprod", 1)
    for key, wanted in zip(BUFFERS, ((views, 3, 4), (views, 3, 3), (views,), steps), strict=True):
        shape = weight_shape(weights, key, len(wanted))
        if shape != wanted:
            raise InputError(f"{weights.path}: the weight '{key}' has shape {list(shape)}; expected {list(wanted)}")
    first = f"{VOLUME}spatial_volume_feats.init_conv.weight"
    channels = weight_shape(weights, first, 5)[1]
    if channels != FEATURES * views:
        raise InputError(f"{weights.path}: '{first}' is for {channels / FEATURES:g} views, 'poses' has {views}")


def _check_widths(weights: Weights) -> None:
    """Raise an InputError if one network's input width does not match another's output."""
    latents = weight_shape(weights, f"{VAE}decoder.conv_in.weight", 4)[1]
    embedding = weight_shape(weights, f"{CLIP}proj", 2)[1]
    for key, dimensions, axis, wanted, of in (
        (f"{UNET}input_blocks.0.0.weight", 4, 1, 2 * latents, "noisy and clean latents"),
        (f"{UNET}out.2.weight", 4, 0, latents, "latents"),
        ("cc_projection.weight", 2, 1, embedding + VIEW_WIDTH, "CLIP's embedding and the view's"),
    ):
        found = weight_shape(weights, key, dimensions)[axis]
        if found != wanted:
            raise InputError(f"{weights.path}: '{key}' has {found} channels; expected {wanted}, for {of}")
