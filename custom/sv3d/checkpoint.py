"""The official SV3D file: which model it is, its sizes by the shapes in it, and its three networks."""

import copy
import itertools
import re
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from liftstudio.errors import InputError
from liftstudio.priors.weights import Weights, check_module, load_module

from .keys import CLIP, UNET, UNUSED, VAE, Sources, clip_sources, unet_sources, vae_sources
from .layout import number, vector_width
from .network import SV3DUNet

_INPUT_BLOCK = re.compile(rf"{re.escape(UNET)}input_blocks\.(?P<block>\d+)\.(?P<part>.+)")


@dataclass(frozen=True)
class Part:
    """One network of a file: built on the meta device, where its weights are, and read when asked for."""

    module: Any  # an nn.Module; diffusers and transformers are untyped
    weights: Weights
    sources: Sources

    def check(self) -> None:
        """Raise an InputError that names the first weight that is missing or of another shape."""
        check_module(self.module, self.weights, self.sources)

    def load(self, dtype: torch.dtype, device: torch.device) -> Any:
        """The network with its weights, frozen; each call reads them anew."""
        module = copy.deepcopy(self.module)
        load_module(module, self.weights, self.sources, dtype, device)
        return module


def open_parts(weights: Weights) -> tuple[Part, Part, Part]:
    """U-Net, autoencoder and CLIP image tower of an official file, all checked, none read.

    Raises:
        InputError: a weight is missing, has another shape, or belongs to none of the three.
    """
    parts = unet_part(weights), vae_part(weights), clip_part(weights)
    for part in parts:
        part.check()
    used = {source[0] for part in parts for source in part.sources.values()}
    for key in weights.shapes:
        if key not in used and not UNUSED.match(key):
            raise InputError(f"{weights.path}: unexpected weight '{key}'")
    return parts


def unet_part(weights: Weights) -> Part:
    """The denoising network; the width of its heads is what no shape tells."""
    width = vector_width(weights)
    found = [match for key in weights.shapes if (match := _INPUT_BLOCK.match(key))]
    levels = 1 + sum(match["part"] == "0.op.weight" for match in found)
    layers = len({match["block"] for match in found}) // levels - 1
    first = [f"{UNET}input_blocks.{1 + level * (layers + 1)}" for level in range(levels)]
    channels = [_shape(weights, f"{block}.0.in_layers.2.weight")[0] for block in first]
    attends = [f"{block}.1.proj_in.weight" in weights for block in first]
    middle = f"{UNET}middle_block.1.transformer_blocks"
    depths = [_count(weights, f"{block}.1.transformer_blocks.{{}}.norm1.weight") for block in first]
    depths[-1] = _count(weights, f"{middle}.{{}}.norm1.weight")  # the middle block is built as the last level's
    with torch.device("meta"):
        module = SV3DUNet(
            in_channels=_shape(weights, f"{UNET}input_blocks.0.0.weight")[1],
            out_channels=_shape(weights, f"{UNET}out.2.weight")[0],
            block_out_channels=tuple(channels),
            layers_per_block=layers,
            down_block_types=tuple(f"{'CrossAttn' if a else ''}DownBlockSpatioTemporal" for a in attends),
            up_block_types=tuple(f"{'CrossAttn' if a else ''}UpBlockSpatioTemporal" for a in attends[::-1]),
            transformer_layers_per_block=tuple(max(depth, 1) for depth in depths),
            num_attention_heads=tuple(_heads(weights, "num_head_channels", count) for count in channels),
            cross_attention_dim=_shape(weights, f"{middle}.0.attn2.to_k.weight")[1],
            projection_class_embeddings_input_dim=width,
        )
    return Part(module, weights, unet_sources(module.state_dict(), layers, attends))


def vae_part(weights: Weights) -> Part:
    """The autoencoder, with the decoder that stands beside its encoder."""
    levels = _count(weights, f"{VAE}encoder.down.{{}}.block.0.conv1.weight")
    blocks = f"{VAE}encoder.down.{{}}.block"
    with torch.device("meta"):
        module: Any = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(
                _shape(weights, f"{blocks.format(level)}.0.conv1.weight")[0] for level in range(levels)
            ),
            layers_per_block=_count(weights, f"{blocks.format(0)}.{{}}.conv1.weight"),
            latent_channels=_shape(weights, f"{VAE}decoder.conv_in.weight")[1],
        )
    return Part(module, weights, vae_sources(module.state_dict(), levels))


def clip_part(weights: Weights) -> Part:
    """The image tower of OpenCLIP; the width of its heads is what no shape tells."""
    width, _, patch, _ = _shape(weights, f"{CLIP}conv1.weight")
    tokens = _shape(weights, f"{CLIP}positional_embedding")[0]
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=_shape(weights, f"{CLIP}transformer.resblocks.0.mlp.c_fc.weight")[0],
        num_hidden_layers=_count(weights, f"{CLIP}transformer.resblocks.{{}}.ln_1.weight"),
        num_attention_heads=_heads(weights, "clip_head_channels", width),
        patch_size=patch,
        image_size=patch * round((tokens - 1) ** 0.5),
        projection_dim=_shape(weights, f"{CLIP}proj")[1],
        hidden_act="gelu",
    )
    with torch.device("meta"):
        module = CLIPVisionModelWithProjection(config)
    module.vision_model.embeddings.position_ids = torch.arange(tokens)[None]  # in no file
    return Part(module, weights, clip_sources(module.state_dict()))


def _heads(weights: Weights, name: str, channels: int) -> int:
    width = number(weights, name)
    if channels % width:
        raise InputError(
            f"{weights.path}: heads of {width} channels do not divide {channels}; its metadata must say {name}"
        )
    return channels // width


def _shape(weights: Weights, key: str) -> tuple[int, ...]:
    if key not in weights:
        raise InputError(f"{weights.path}: the weight '{key}' is missing")
    return weights.shapes[key]


def _count(weights: Weights, pattern: str) -> int:
    """How many keys there are of `pattern` with 0, 1, 2, ... in it, without a gap."""
    return next(n for n in itertools.count() if pattern.format(n) not in weights)
