"""What checkpoints of latent diffusion models share: autoencoder, CLIP's image tower and UNet in their original layout.

The tables of names follow from comparing that layout with diffusers' and transformers'.
"""

import copy
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from liftstudio.core.errors import InputError
from liftstudio.core.weights import Weights, check_module, load_module

Change = Callable[[Tensor], Tensor]
Sources = dict[str, tuple[str, Change]]  # module's key -> the file's, and the change of layout

VAE_GROUPS = 32  # of the channels, in the norms of Stable Diffusion's autoencoder

_UNET_BLOCK = r"^(?P<way>down|up)_blocks\.(?P<level>\d+)\.(?P<part>[a-z]+)\.(?P<index>\d+)(?:(?<=samplers\.\d)\.conv)?"
_UNET_PARTS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}
_RESNET_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_PARTS = {
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_CLIP_PARTS = {
    "vision_model.embeddings.class_embedding": "class_embedding",
    "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.patch_embedding": "conv1",
    "vision_model.pre_layrnorm": "ln_pre",  # misspelt in transformers
    "vision_model.post_layernorm": "ln_post",
    "vision_model.encoder.layers": "transformer.resblocks",
    "visual_projection.weight": "proj",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


_GROUP = 32  # channels of a UNet's residual blocks come in multiples of it


@dataclass(frozen=True)
class UNetSizes:
    """Sizes of a UNet in its original layout; of its levels from the finest to the coarsest.

    channels: of their residual blocks.
    attends:  whether there is attention.
    depths:   transformer blocks of an attention; at the coarsest level those of the middle, which is built alike.
    layers:   residual blocks of a level on the way down; one more on the way up.
    """

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    attends: tuple[bool, ...]
    depths: tuple[int, ...]
    layers: int
    context_width: int

    def options(self, block: str) -> dict[str, Any]:
        """As diffusers' networks name them; `block` is what the names of their blocks end in."""
        kinds = ["CrossAttn" if attends else "" for attends in self.attends]
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "block_out_channels": self.channels,
            "layers_per_block": self.layers,
            "down_block_types": tuple(f"{kind}Down{block}" for kind in kinds),
            "up_block_types": tuple(f"{kind}Up{block}" for kind in kinds[::-1]),
            "transformer_layers_per_block": self.depths,
            "cross_attention_dim": self.context_width,
        }


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


def vae_part(weights: Weights, prefix: str) -> Part:
    """The autoencoder under `prefix`; all sizes are read from shapes.

    Raises:
        InputError: a weight that tells a size is missing, or tells an impossible one.
    """
    levels = max(1, weight_count(weights, f"{prefix}encoder.down."))
    firsts = [f"{prefix}encoder.down.{level}.block.0.conv1.weight" for level in range(levels)]
    widths = tuple(output_channels(weights, first, 4, VAE_GROUPS) for first in firsts)
    layers = weight_count(weights, f"{prefix}encoder.down.0.block.")
    latent_channels = weight_shape(weights, f"{prefix}decoder.conv_in.weight", 4)[1]
    with torch.device("meta"):
        module = make_vae(widths, layers, latent_channels)
    return Part(module, weights, vae_sources(module.state_dict(), levels, prefix))


def make_vae(widths: tuple[int, ...], layers: int, latent_channels: int, groups: int = VAE_GROUPS) -> Any:
    """An autoencoder with random weights; each of the `widths`, from the finest level, but the last is halved after.

    groups: of the channels, in its norms.
    """
    from diffusers import AutoencoderKL  # takes seconds to import

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=layers,
        latent_channels=latent_channels,
        norm_num_groups=groups,
    )


def clip_part(weights: Weights, prefix: str, head_channels: int, activation: str) -> Part:
    """The image tower under `prefix`.

    Args:
        head_channels: width of an attention head, which no shape tells.
        activation: as transformers names it: "quick_gelu" (OpenAI's weights) or "gelu" (OpenCLIP's).

    Raises:
        InputError: a weight that tells a size is missing, or the heads do not divide the width.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    width, _, patch, _ = weight_shape(weights, f"{prefix}conv1.weight", 4)
    tokens = weight_shape(weights, f"{prefix}positional_embedding", 2)[0]
    if width % head_channels:
        raise InputError(f"{weights.path}: '{prefix}conv1.weight': {width} channels are no heads of {head_channels}")
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=weight_shape(weights, f"{prefix}transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        num_hidden_layers=weight_count(weights, f"{prefix}transformer.resblocks."),
        num_attention_heads=width // head_channels,
        patch_size=patch,
        image_size=patch * round((tokens - 1) ** 0.5),
        projection_dim=weight_shape(weights, f"{prefix}proj", 2)[1],
        hidden_act=activation,
    )
    with torch.device("meta"):
        module = CLIPVisionModelWithProjection(config)
    module.vision_model.embeddings.position_ids = torch.arange(tokens)[None]  # in no file
    return Part(module, weights, clip_sources(module.state_dict(), prefix))


def unet_sizes(weights: Weights, prefix: str) -> UNetSizes:
    """Sizes of the UNet under `prefix`, all by shapes.

    Raises:
        InputError: a weight that tells a size is missing, or tells an impossible one.
    """
    block = re.compile(rf"{re.escape(prefix)}input_blocks\.(?P<block>\d+)\.(?P<part>.+)")
    found = [match for key in weights.shapes if (match := block.match(key))]
    levels = 1 + sum(match["part"] == "0.op.weight" for match in found)
    layers = len({match["block"] for match in found}) // levels - 1
    firsts = [f"{prefix}input_blocks.{1 + level * (layers + 1)}" for level in range(levels)]
    middle = f"{prefix}middle_block.1.transformer_blocks."
    blocks = [*(f"{first}.1.transformer_blocks." for first in firsts[:-1]), middle]
    return UNetSizes(
        in_channels=weight_shape(weights, f"{prefix}input_blocks.0.0.weight", 4)[1],
        out_channels=weight_shape(weights, f"{prefix}out.2.weight", 4)[0],
        channels=tuple(_grouped_channels(weights, f"{first}.0.in_layers.2.weight") for first in firsts),
        attends=tuple(f"{first}.1.proj_in.weight" in weights for first in firsts),
        depths=tuple(max(weight_count(weights, block), 1) for block in blocks),
        layers=layers,
        context_width=weight_shape(weights, f"{middle}0.attn2.to_k.weight", 2)[1],
    )


def head_count(weights: Weights, name: str, width: int, channels: int) -> int:
    """How many heads of `width` channels an attention has; `name`: of that width in the metadata of files.

    Raises:
        InputError: the heads do not divide the channels.
    """
    if channels % width:
        raise InputError(
            f"{weights.path}: heads of {width} channels do not divide {channels}; its metadata must say {name}"
        )
    return channels // width


def unet_sources(
    names: Iterable[str], layers: int, levels_with_attention: Sequence[bool], prefix: str, others: dict[str, str]
) -> Sources:
    """Sources of the weights of a network whose blocks are diffusers'.

    Args:
        names: the module's keys.
        layers: residual blocks per level on the way down (one more on the way up).
        levels_with_attention: from the finest level to the coarsest.
        others: a part that not all such networks have -> its original name.
    """
    upwards = levels_with_attention[::-1]

    def flat_block(match: re.Match[str]) -> str:
        """Original blocks are numbered through all levels, and their parts by position."""
        way, part = match["way"], match["part"]
        level, index = int(match["level"]), int(match["index"])
        if part == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.op"
        if part == "upsamplers":
            return f"output_blocks.{level * (layers + 1) + layers}.{2 if upwards[level] else 1}.conv"
        position = 0 if part == "resnets" else 1
        if way == "down":
            return f"input_blocks.{1 + level * (layers + 1) + index}.{position}"
        return f"output_blocks.{level * (layers + 1) + index}.{position}"

    def middle_block(match: re.Match[str]) -> str:
        return f"middle_block.{2 * int(match['index']) if match['part'] == 'resnets' else 1}"

    def official(name: str) -> str:
        parts = _UNET_PARTS | others | (_RESNET_PARTS if ".resnets." in name else {})
        name = re.sub(_UNET_BLOCK, flat_block, name)
        name = re.sub(r"^mid_block\.(?P<part>[a-z]+)\.(?P<index>\d+)", middle_block, name)
        return prefix + replace_parts(name, parts)

    return {name: (official(name), same) for name in names}


def vae_sources(names: Iterable[str], levels: int, prefix: str) -> Sources:
    """Sources of the autoencoder's weights; `levels` counts its resolutions."""

    def official(name: str) -> str:
        name = re.sub(r"^encoder\.down_blocks\.(\d+)\.resnets", r"encoder.down.\1.block", name)
        name = re.sub(r"^encoder\.down_blocks", "encoder.down", name)
        name = re.sub(r"^decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}", name)
        name = re.sub(r"^(decoder\.up\.\d+)\.resnets", r"\1.block", name)
        return prefix + replace_parts(name, _VAE_PARTS)

    def change(name: str) -> Change:
        is_attention_matrix = re.search(r"\.(to_[qkv]|to_out\.0)\.weight$", name)  # officially a 1x1 convolution
        return _without_pixels if is_attention_matrix else same

    return {name: (official(name), change(name)) for name in names}


def clip_sources(names: Iterable[str], prefix: str) -> Sources:
    """Sources of the image tower's weights; the original file has query, key and value in one matrix."""

    def source(name: str) -> tuple[str, Change]:
        match = re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", name)
        if match:
            key = f"{prefix}transformer.resblocks.{match[1]}.attn.in_proj_{match[3]}"
            return key, _THIRDS["qkv".index(match[2])]
        return prefix + replace_parts(name, _CLIP_PARTS), _transposed if name == "visual_projection.weight" else same

    return {name: source(name) for name in names}


def check_all_used(weights: Weights, parts: Iterable[Part], others: re.Pattern[str]) -> None:
    """Raise an InputError that names the first key of the file that no part uses and `others` does not name."""
    used = {source[0] for part in parts for source in part.sources.values()}
    for key in weights.shapes:
        if key not in used and not others.match(key):
            raise InputError(f"{weights.path}: unexpected weight '{key}'")


def official_state(module: nn.Module, sources: Sources) -> dict[str, Tensor]:
    """The module's weights under the original keys, in the original layout: the inverse of loading by `sources`."""
    state = module.state_dict()
    parts: defaultdict[str, dict[int, Tensor]] = defaultdict(dict)
    for name, (key, change) in sources.items():
        place, undo = _INVERSE[change]
        parts[key][place] = undo(state[name])
    return {key: torch.cat([found[place] for place in sorted(found)]) for key, found in parts.items()}


def replace_parts(name: str, parts: dict[str, str]) -> str:
    """`name` with each run of its dotted words that is in `parts` replaced."""
    known = "|".join(map(re.escape, parts))
    return re.sub(rf"(?<![^.])({known})(?![^.])", lambda match: parts[match[0]], name)


def weight_shape(weights: Weights, key: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a weight that tells sizes.

    Raises:
        InputError: it is missing, or empty, or has another number of dimensions.
    """
    if key not in weights:
        raise InputError(f"{weights.path}: the weight '{key}' is missing")
    shape = weights.shapes[key]
    if len(shape) != dimensions:
        raise InputError(
            f"{weights.path}: the weight '{key}' has shape {list(shape)}; expected {dimensions} dimensions"
        )
    if 0 in shape:
        raise InputError(f"{weights.path}: the weight '{key}' is empty: its shape is {list(shape)}")
    return shape


def output_channels(weights: Weights, key: str, dimensions: int, *divisors: int) -> int:
    """Output channels of a convolution, which groups and heads must divide.

    Raises:
        InputError: they do not, or as `weight_shape`.
    """
    channels = weight_shape(weights, key, dimensions)[0]
    for divisor in divisors:
        if channels % divisor:
            raise InputError(f"{weights.path}: '{key}' has {channels} channels, which is no multiple of {divisor}")
    return channels


def weight_count(weights: Weights, prefix: str) -> int:
    """One more than the highest number that follows `prefix` in a key: how many numbered modules are there."""
    numbered = re.compile(rf"{re.escape(prefix)}(\d+)\.")
    return 1 + max((int(match[1]) for key in weights.shapes if (match := numbered.match(key))), default=-1)


def metadata_number(weights: Weights, name: str, official: int) -> int:
    """What no shape tells: what the file's metadata says under `name`, or else `official`.

    Raises:
        InputError: the metadata holds something else than a whole number above 0 there.
    """
    text = weights.metadata.get(name, str(official))
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{weights.path}: metadata '{name}': expected a whole number above 0, got {text!r}")
    return int(text)


def _grouped_channels(weights: Weights, key: str) -> int:
    channels = weight_shape(weights, key, 4)[0]
    if channels < _GROUP or channels % _GROUP:
        raise InputError(f"{weights.path}: '{key}' has {channels} channels, which is no multiple of {_GROUP}")
    return channels


def same(tensor: Tensor) -> Tensor:
    """No change of layout."""
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.T


def _without_pixels(tensor: Tensor) -> Tensor:
    return tensor.flatten(1)


def _with_pixels(tensor: Tensor) -> Tensor:
    return tensor[..., None, None]


def _piece(index: int, count: int) -> Change:
    return lambda tensor: tensor.chunk(count)[index]


HALVES = [_piece(index, 2) for index in range(2)]  # of a matrix that holds two of the module's
_THIRDS = [_piece(index, 3) for index in range(3)]
# change of layout -> its place among those that share a key, and the way back
_INVERSE: dict[Change, tuple[int, Change]] = {
    same: (0, same),
    _transposed: (0, _transposed),
    _without_pixels: (0, _with_pixels),
    **{change: (place, same) for pieces in (HALVES, _THIRDS) for place, change in enumerate(pieces)},
}
