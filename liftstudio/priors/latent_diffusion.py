"""Reading checkpoints of latent diffusion models: autoencoder, CLIP image tower and UNet in their original layout.

The tables map the names of diffusers and transformers to those of the original layout.
"""

import contextlib
import contextvars
import copy
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from liftstudio.core.errors import InputError
from liftstudio.core.weights import Weights, check_module, load_module, unloaded

Change = Callable[[Tensor], Tensor]
Sources = dict[str, tuple[str, Change]]  # module's key -> the file's key, and the change of layout

VAE_GROUPS = 32  # channel groups of the norms in Stable Diffusion's autoencoder

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


_fake: contextvars.ContextVar[Tensor | None] = contextvars.ContextVar("fake", default=None)

_GROUP = 32  # the channels of a UNet's residual blocks are multiples of this
_TABLES = [name for name, value in vars(nn.Module()).items() if isinstance(value, dict)]  # weights, children, hooks


@dataclass(frozen=True)
class UNetSizes:
    """Sizes of a UNet in its original layout; levels are ordered from the finest to the coarsest.

    channels: of the residual blocks, per level.
    attends:  whether a level has attention.
    depths:   transformer blocks per attention layer; at the coarsest level those of the middle, which is built alike.
    layers:   residual blocks of a level in the down path; the up path has one more.
    """

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    attends: tuple[bool, ...]
    depths: tuple[int, ...]
    layers: int
    context_width: int

    def options(self, block: str) -> dict[str, Any]:
        """Return the sizes as options of diffusers' networks; `block` is the suffix of their block names."""
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
    """One network of a file: a module on the meta device, and where its weights are; read only by `load`."""

    module: Any  # an nn.Module; diffusers and transformers are untyped
    weights: Weights
    sources: Sources

    def check(self) -> None:
        """Raise an InputError that names the first weight that is missing or has the wrong shape."""
        check_module(self.module, self.weights, self.sources)

    def load(self, dtype: torch.dtype, device: torch.device) -> Any:
        """Return the network with its weights, frozen; each call reads the file again; see `fake_weights`."""
        module = _copy(self.module)
        if (fake := _fake.get()) is not None:
            _fill(module, fake, dtype)
        else:
            load_module(module, self.weights, self.sources, dtype, device)
        return module


@contextlib.contextmanager
def fake_weights() -> Iterator[None]:
    """Let `Part.load` inside the block make networks of fake tensors: shapes and dtypes, without memory and numbers."""
    token = _fake.set(FakeTensorMode(allow_non_fake_inputs=True).from_tensor(torch.empty(0)))
    try:
        yield
    finally:
        _fake.reset(token)


def _fill(module: nn.Module, fake: Tensor, dtype: torch.dtype) -> None:
    """Give a module on the meta device fake weights; fake: a fake tensor."""
    state = {
        name: fake.new_empty(tensor.shape, dtype=dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in module.state_dict().items()
    }
    module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(False).eval()


def _copy(root: nn.Module) -> nn.Module:
    """Copy a tree of modules with their tables; the rest is shared, unlike in a deep copy, which is slow."""
    copies = {module: copy.copy(module) for module in root.modules()}
    for module in copies.values():
        vars(module).update({name: vars(module)[name].copy() for name in _TABLES})
        for name, child in module._modules.items():
            module._modules[name] = None if child is None else copies[child]
    return copies[root]


def vae_part(weights: Weights, prefix: str) -> Part:
    """Return the autoencoder under `prefix`; all sizes are read from shapes.

    Raises:
        InputError: a weight that determines a size is missing or has an impossible shape.
    """
    levels = max(1, weight_count(weights, f"{prefix}encoder.down."))
    firsts = [f"{prefix}encoder.down.{level}.block.0.conv1.weight" for level in range(levels)]
    widths = tuple(output_channels(weights, first, 4, VAE_GROUPS) for first in firsts)
    layers = weight_count(weights, f"{prefix}encoder.down.0.block.")
    latent_channels = weight_shape(weights, f"{prefix}decoder.conv_in.weight", 4)[1]
    with unloaded():
        module = make_vae(widths, layers, latent_channels)
    return Part(module, weights, vae_sources(module.state_dict(), levels, prefix))


def make_vae(widths: tuple[int, ...], layers: int, latent_channels: int, groups: int = VAE_GROUPS) -> Any:
    """Return an autoencoder with random weights.

    widths: channels per level, the finest first; after each level but the last the resolution is halved.
    groups: channel groups in its norms.
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
    """Return the CLIP image tower under `prefix`.

    Args:
        head_channels: width of an attention head, which no shape reveals.
        activation: transformers' name of it: "quick_gelu" (OpenAI's weights) or "gelu" (OpenCLIP's).

    Raises:
        InputError: a weight that determines a size is missing, or the head size does not divide the width.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    width, _, patch, _ = weight_shape(weights, f"{prefix}conv1.weight", 4)
    tokens = weight_shape(weights, f"{prefix}positional_embedding", 2)[0]
    if width % head_channels:
        raise InputError(
            f"{weights.path}: '{prefix}conv1.weight': width {width} is not divisible by the head size {head_channels}"
        )
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
    with unloaded():
        module = CLIPVisionModelWithProjection(config)
    module.vision_model.embeddings.position_ids = torch.arange(tokens)[None]  # not stored in files
    return Part(module, weights, clip_sources(module.state_dict(), prefix))


def unet_sizes(weights: Weights, prefix: str) -> UNetSizes:
    """Return the sizes of the UNet under `prefix`, all read from shapes.

    Raises:
        InputError: a weight that determines a size is missing or has an impossible shape.
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
    """Return the number of attention heads of `width` channels each; `name`: key of that width in a file's metadata.

    Raises:
        InputError: the width does not divide the channels.
    """
    if channels % width:
        raise InputError(
            f"{weights.path}: {channels} channels are not divisible by the head size {width}; "
            f"set {name} in its metadata"
        )
    return channels // width


def unet_sources(
    names: Iterable[str], layers: int, levels_with_attention: Sequence[bool], prefix: str, others: dict[str, str]
) -> Sources:
    """Return the sources of the weights of a network made of diffusers' blocks.

    Args:
        names: the module's keys.
        layers: residual blocks per level in the down path (one more in the up path).
        levels_with_attention: whether each level has attention, from the finest to the coarsest.
        prefix: that of the file's keys.
        others: a part that only some networks have -> its original name.
    """
    upwards = levels_with_attention[::-1]

    def flat_block(match: re.Match[str]) -> str:
        """In the original layout, blocks are numbered across levels, and their parts by position."""
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
    """Return the sources of the autoencoder's weights; `levels` is its number of resolutions."""

    def official(name: str) -> str:
        name = re.sub(r"^encoder\.down_blocks\.(\d+)\.resnets", r"encoder.down.\1.block", name)
        name = re.sub(r"^encoder\.down_blocks", "encoder.down", name)
        name = re.sub(r"^decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}", name)
        name = re.sub(r"^(decoder\.up\.\d+)\.resnets", r"\1.block", name)
        return prefix + replace_parts(name, _VAE_PARTS)

    def change(name: str) -> Change:
        is_attention_matrix = re.search(
            r"\.(to_[qkv]|to_out\.0)\.weight$", name
        )  # a 1x1 convolution in the original layout
        return _without_pixels if is_attention_matrix else same

    return {name: (official(name), change(name)) for name in names}


def clip_sources(names: Iterable[str], prefix: str) -> Sources:
    """Return the sources of the image tower's weights; the original file has query, key and value in one matrix."""

    def source(name: str) -> tuple[str, Change]:
        match = re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", name)
        if match:
            key = f"{prefix}transformer.resblocks.{match[1]}.attn.in_proj_{match[3]}"
            return key, _THIRDS["qkv".index(match[2])]
        return prefix + replace_parts(name, _CLIP_PARTS), _transposed if name == "visual_projection.weight" else same

    return {name: source(name) for name in names}


def check_all_used(weights: Weights, parts: Iterable[Part], others: re.Pattern[str]) -> None:
    """Raise an InputError that names the first key of the file that no part uses and `others` does not match."""
    used = {source[0] for part in parts for source in part.sources.values()}
    for key in weights.shapes:
        if key not in used and not others.match(key):
            raise InputError(f"{weights.path}: unexpected weight '{key}'")


def official_state(module: nn.Module, sources: Sources) -> dict[str, Tensor]:
    """Return the module's weights under the original keys and in the original layout: the inverse of loading."""
    state = module.state_dict()
    parts: defaultdict[str, dict[int, Tensor]] = defaultdict(dict)
    for name, (key, change) in sources.items():
        place, undo = _INVERSE[change]
        parts[key][place] = undo(state[name])
    return {key: torch.cat([found[place] for place in sorted(found)]) for key, found in parts.items()}


def replace_parts(name: str, parts: dict[str, str]) -> str:
    """Replace each run of dotted words in `name` that is a key of `parts`."""
    known = "|".join(map(re.escape, parts))
    return re.sub(rf"(?<![^.])({known})(?![^.])", lambda match: parts[match[0]], name)


def weight_shape(weights: Weights, key: str, dimensions: int) -> tuple[int, ...]:
    """Return the shape of a weight that determines sizes.

    Raises:
        InputError: it is missing, empty, or has another number of dimensions.
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
    """Return the output channels of a convolution, which must be multiples of `divisors` (groups, heads).

    Raises:
        InputError: they are not, or as `weight_shape`.
    """
    channels = weight_shape(weights, key, dimensions)[0]
    for divisor in divisors:
        if channels % divisor:
            raise InputError(f"{weights.path}: '{key}' has {channels} channels, not a multiple of {divisor}")
    return channels


def weight_count(weights: Weights, prefix: str) -> int:
    """Return the number of numbered modules: one more than the highest number that follows `prefix` in a key."""
    numbered = re.compile(rf"{re.escape(prefix)}(\d+)\.")
    return 1 + max((int(match[1]) for key in weights.shapes if (match := numbered.match(key))), default=-1)


def metadata_number(weights: Weights, name: str, official: int) -> int:
    """Return a size that no shape reveals: the file's metadata under `name`, else `official`.

    Raises:
        InputError: the metadata's value is not a whole number above 0.
    """
    text = weights.metadata.get(name, str(official))
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{weights.path}: metadata '{name}': expected a whole number above 0, got {text!r}")
    return int(text)


def _grouped_channels(weights: Weights, key: str) -> int:
    channels = weight_shape(weights, key, 4)[0]
    if channels < _GROUP or channels % _GROUP:
        raise InputError(f"{weights.path}: '{key}' has {channels} channels, not a multiple of {_GROUP}")
    return channels


def same(tensor: Tensor) -> Tensor:
    """Return the tensor unchanged: the layouts agree."""
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.T


def _without_pixels(tensor: Tensor) -> Tensor:
    return tensor.flatten(1)


def _with_pixels(tensor: Tensor) -> Tensor:
    return tensor[..., None, None]


def _piece(index: int, count: int) -> Change:
    return lambda tensor: tensor.chunk(count)[index]


HALVES = [_piece(index, 2) for index in range(2)]  # of a matrix that stacks two of the module's
_THIRDS = [_piece(index, 3) for index in range(3)]
# Change of layout -> its position among those that share a key, and its inverse.
_INVERSE: dict[Change, tuple[int, Change]] = {
    same: (0, same),
    _transposed: (0, _transposed),
    _without_pixels: (0, _with_pixels),
    **{change: (place, same) for pieces in (HALVES, _THIRDS) for place, change in enumerate(pieces)},
}
