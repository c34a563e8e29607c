"""Names of weights: the modules' (diffusers, transformers) to those in the official checkpoint.

The tables follow from comparing the two layouts; the tests prove them complete on the full-size list of official keys.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

Change = Callable[[Tensor], Tensor]
Sources = dict[str, tuple[str, Change]]  # module's key -> the file's, and the change of layout

UNET = "model.diffusion_model."
CLIP = "conditioner.embedders.0.open_clip.model.visual."
VAE = "conditioner.embedders.1.encoder."
# The rest of the text tower, and a second decoder without the convolution before it.
UNUSED = re.compile(r"conditioner\.embedders\.0\.open_clip\.model\.(?!visual\.)|first_stage_model\.|denoiser\.")

_RESNET_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_PARTS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "temporal_transformer_blocks": "time_stack",
    "time_pos_embed.linear_1": "time_pos_embed.0",
    "time_pos_embed.linear_2": "time_pos_embed.2",
    **{f"spatial_res_block.{name}": official for name, official in _RESNET_PARTS.items()},
    **{f"temporal_res_block.{name}": f"time_stack.{official}" for name, official in _RESNET_PARTS.items()},
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
_BLOCK = r"^(?P<way>down|up)_blocks\.(?P<level>\d+)\.(?P<part>[a-z]+)\.(?P<index>\d+)(?:(?<=samplers\.\d)\.conv)?"


def unet_sources(names: Iterable[str], layers: int, levels_with_attention: list[bool]) -> Sources:
    """Sources of the network's weights.

    Args:
        names: the module's keys.
        layers: residual blocks per level on the way down (one more on the way up).
        levels_with_attention: from the finest level to the coarsest.
    """
    upwards = levels_with_attention[::-1]

    def flat_block(match: re.Match[str]) -> str:
        """Official blocks are numbered through all levels, and their parts by position."""
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
        name = re.sub(_BLOCK, flat_block, name)
        name = re.sub(r"^mid_block\.(?P<part>[a-z]+)\.(?P<index>\d+)", middle_block, name)
        return UNET + _replace_parts(name, _UNET_PARTS)

    return {name: (official(name), _same) for name in names}


def vae_sources(names: Iterable[str], levels: int) -> Sources:
    """Sources of the autoencoder's weights; `levels` counts its resolutions."""

    def official(name: str) -> str:
        name = re.sub(r"^encoder\.down_blocks\.(\d+)\.resnets", r"encoder.down.\1.block", name)
        name = re.sub(r"^encoder\.down_blocks", "encoder.down", name)
        name = re.sub(r"^decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}", name)
        name = re.sub(r"^(decoder\.up\.\d+)\.resnets", r"\1.block", name)
        return VAE + _replace_parts(name, _VAE_PARTS)

    def change(name: str) -> Change:
        is_attention_matrix = re.search(r"\.(to_[qkv]|to_out\.0)\.weight$", name)  # officially a 1x1 convolution
        return _without_pixels if is_attention_matrix else _same

    return {name: (official(name), change(name)) for name in names}


def clip_sources(names: Iterable[str]) -> Sources:
    """Sources of the image tower's weights; the official file has query, key and value in one matrix."""

    def source(name: str) -> tuple[str, Change]:
        match = re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", name)
        if match:
            key = f"{CLIP}transformer.resblocks.{match[1]}.attn.in_proj_{match[3]}"
            return key, _THIRDS["qkv".index(match[2])]
        return CLIP + _replace_parts(name, _CLIP_PARTS), _transposed if name == "visual_projection.weight" else _same

    return {name: source(name) for name in names}


def official_state(module: nn.Module, sources: Sources) -> dict[str, Tensor]:
    """The module's weights under the official keys, in the official layout: the inverse of loading by `sources`."""
    state = module.state_dict()
    parts: defaultdict[str, dict[int, Tensor]] = defaultdict(dict)
    for name, (key, change) in sources.items():
        place, undo = _INVERSE[change]
        parts[key][place] = undo(state[name])
    return {key: torch.cat([found[place] for place in sorted(found)]) for key, found in parts.items()}


def _replace_parts(name: str, parts: dict[str, str]) -> str:
    """`name` with each run of its dotted words that is in `parts` replaced."""
    known = "|".join(map(re.escape, parts))
    return re.sub(rf"(?<![^.])({known})(?![^.])", lambda match: parts[match[0]], name)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.T


def _without_pixels(tensor: Tensor) -> Tensor:
    return tensor.flatten(1)


def _with_pixels(tensor: Tensor) -> Tensor:
    return tensor[..., None, None]


def _third(index: int) -> Change:
    return lambda tensor: tensor.chunk(3)[index]


_THIRDS = [_third(index) for index in range(3)]
# change of layout -> its place among those that share a key, and the way back
_INVERSE: dict[Change, tuple[int, Change]] = {
    _same: (0, _same),
    _transposed: (0, _transposed),
    _without_pixels: (0, _with_pixels),
    **{change: (place, _same) for place, change in enumerate(_THIRDS)},
}
