"""Networks in folders as diffusers and transformers write them: `config.json` with a weight file next to it.

A folder is a local path, or `owner/name` or `owner/name/folder` on the Hugging Face hub. `published` says where the
official folder is published and under which licence; error messages include it.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from liftstudio.core.assets import input_path
from liftstudio.core.errors import InputError
from liftstudio.core.files import file_kind
from liftstudio.core.weights import Weights, find_file, is_hub_name, unloaded
from liftstudio.priors.latent_diffusion import Part, Sources, replace_parts, same
from liftstudio.priors.latent_prior import LATENT_SCALE

_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # diffusers before 0.15
_OLD_STEMS = {"model": "pytorch_model"}
_SCHEDULER = "scheduler/scheduler_config.json"

Build = Callable[[dict[str, Any]], nn.Module]  # builds a network from the options in `config.json`


def check_folder(folder: str, published: str) -> None:
    """Raise an InputError if this is neither a local folder nor a possible name on the hub."""
    if not input_path(folder).is_dir() and not is_hub_name(folder):
        raise InputError(f"{folder}: no such folder; {published}")


@contextlib.contextmanager
def loading(option: str, source: str, kind: str) -> Iterator[str]:
    """Yield the name by which transformers and diffusers find what the block loads; turn their errors into InputErrors.

    Args:
        option: that names the source; error messages start with it.
        source: a folder, or `owner/name` on the hub.
        kind: of what is loaded, in words.

    Raises:
        InputError: no such folder, or anything fails inside.
    """
    folder = input_path(source)
    if not folder.is_dir() and (folder.exists() or source.count("/") != 1):
        raise InputError(f"{option}: {source}: no such folder")
    try:
        yield str(folder) if folder.is_dir() else source
    except InputError:
        raise
    except Exception as error:  # a dozen unrelated types: damaged file, no network access, no such name
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{option}: {source}: cannot load a {kind} ({reason[0]})") from error


def read_scheduler(folder: str, predictions: Sequence[str], published: str) -> dict[str, Any]:
    """Read the options of a pipeline's noise schedule, including `prediction_type`: what its network predicts.

    Args:
        predictions: prediction types that the caller supports.

    Raises:
        InputError: there is no schedule, or the network predicts something else.
    """
    path = find_file(f"{folder}/{_SCHEDULER}", published)
    options = {"prediction_type": "epsilon"} | read_options(path, published)  # diffusers' default
    if options["prediction_type"] not in predictions:
        wanted, got = " or ".join(predictions), options["prediction_type"]
        raise InputError(f"{path}: prediction_type: expected {wanted}, got {got}; {published}")
    return options


def check_predicts_noise(folder: str, published: str) -> None:
    """Raise an InputError if a pipeline has a noise schedule that says that its network does not predict noise."""
    try:
        find_file(f"{folder}/{_SCHEDULER}")
    except InputError:
        return
    read_scheduler(folder, ("epsilon",), published)


def diffusers_part(cls: Any, folder: str, published: str) -> Part:
    """Return the network in a diffusers folder.

    Args:
        cls: the network's class in diffusers.

    Raises:
        InputError: there is none, or one of another class.
    """

    def build(options: dict[str, Any]) -> nn.Module:
        if options.get("_class_name") != cls.__name__:
            raise ValueError(f"expected a {cls.__name__}, got '_class_name': {options.get('_class_name')!r}")
        return cls.from_config(options)

    return _part(build, folder, "diffusion_pytorch_model", "", published)


def autoencoder_part(folder: str, published: str) -> Part:
    """Return the autoencoder in a diffusers folder.

    Raises:
        InputError: there is none, or the scale of its latents is not Stable Diffusion's.
    """
    from diffusers import AutoencoderKL  # takes seconds to import

    part = diffusers_part(AutoencoderKL, folder, published)
    scale = part.module.config.scaling_factor
    if scale != LATENT_SCALE:
        raise InputError(f"{folder}: its latents are scaled by {scale}, expected {LATENT_SCALE:g}; {published}")
    return part


def latent_side(unet: Part, published: str) -> int:
    """Return the number of pixels across the square latents that a UNet was made for.

    Raises:
        InputError: its config.json does not say so.
    """
    size = unet.module.config.sample_size
    height, width = size if isinstance(size, list | tuple) and len(size) == 2 else (size, size)
    if not (isinstance(height, int) and height == width and height > 0):
        wanted = "a whole number above 0, or two equal ones"
        raise InputError(
            f"{unet.weights.path.with_name('config.json')}: sample_size: expected {wanted}, got {size!r}; {published}"
        )
    return height


def image_tower_part(folder: str, published: str, *, projected: bool = False) -> Part:
    """Return the CLIP image tower in a folder that has both towers or only this one.

    Args:
        projected: include the projection to the embedding space that images share with texts.

    Raises:
        InputError: there is none.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection  # takes seconds to import

    def build(options: dict[str, Any]) -> nn.Module:
        config = CLIPVisionConfig.from_dict(options.get("vision_config") or options)
        tower = CLIPVisionModelWithProjection(config)
        return tower if projected else tower.vision_model

    return _part(build, folder, "model", "vision_model.", published)


def text_tower_part(folder: str, published: str) -> Part:
    """Return the CLIP text tower in a folder.

    Raises:
        InputError: there is none.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    def build(options: dict[str, Any]) -> nn.Module:
        return CLIPTextModel(CLIPTextConfig.from_dict(options))

    return _part(build, folder, "model", "text_model.", published)


def open_tokenizer(folder: str, tower: Any, published: str) -> Any:
    """Open the CLIP tokenizer in a folder, for a text tower.

    Raises:
        InputError: there is none, or its vocabulary is larger than the tower's.
    """
    from transformers import CLIPTokenizer

    place = find_file(f"{folder}/tokenizer_config.json", published).parent
    with contextlib.suppress(InputError):
        find_file(f"{folder}/special_tokens_map.json")
    try:
        find_file(f"{folder}/tokenizer.json")  # a single file, as recent versions of transformers write it
    except InputError:
        for name in ("vocab.json", "merges.txt"):
            find_file(f"{folder}/{name}", published)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:  # the reader raises a dozen unrelated types
        raise InputError(f"{place}: not a readable tokenizer ({type(error).__name__}); {published}") from error
    if len(tokenizer) > tower.config.vocab_size:
        known = f"the text tower has {tower.config.vocab_size}"
        raise InputError(f"{place}: vocabulary of {len(tokenizer)} tokens, but {known}; {published}")
    return tokenizer


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text, with start and end tokens, not padded or truncated.

    The text is taken literally: the name of a special token in it, such as "<|endoftext|>", is plain text.
    """
    return tokenizer(text, verbose=False, split_special_tokens=True).input_ids


@torch.no_grad()
def embed_tokens(tokenizer: Any, tower: Any, texts: Sequence[list[int]]) -> Tensor:
    """Embed the tokens of texts as context of UNets: [texts, L, D] float32, padded to the tower's length L."""
    length = tower.config.max_position_embeddings
    padded = [[*ids, *[tokenizer.pad_token_id] * (length - len(ids))] for ids in texts]
    return tower(torch.tensor(padded, device=tower.device)).last_hidden_state.float()


def open_folder_weights(folder: str, stem: str, published: str) -> Weights:
    """Open the weight file: in full precision, else in half precision, else as older versions of the packages wrote it.

    Args:
        stem: stem of the file name: "model" or "diffusion_pytorch_model".

    Raises:
        InputError: there is none, or it is not readable.
    """
    names = [f"{stem}.safetensors", f"{stem}.fp16.safetensors", f"{_OLD_STEMS.get(stem, stem)}.bin"]
    for name in names:
        with contextlib.suppress(InputError):
            path = find_file(f"{folder}/{name}")
            break
    else:
        path = find_file(f"{folder}/{names[0]}", published)  # raises an error that names the missing file
    return Weights(path)


def _part(build: Build, folder: str, stem: str, prefix: str, published: str) -> Part:
    check_folder(folder, published)
    module = _built(build, find_file(f"{folder}/config.json", published), published)
    for part in module.modules():
        if isinstance(positions := getattr(part, "position_ids", None), Tensor):  # not stored in files
            part.position_ids = torch.arange(positions.shape[-1])[None]
    weights = open_folder_weights(folder, stem, published)
    return Part(module, weights, _sources(module, weights, prefix))


def _built(build: Build, path: Path, published: str) -> nn.Module:
    """Build the network of a config file on the meta device, without allocating memory."""
    options = read_options(path, published)
    try:
        with unloaded():
            return build(options)
    except Exception as error:  # the classes of both packages raise many unrelated types
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: no network can be built from it ({reason[0]}); {published}") from error


def read_options(path: Path, published: str) -> dict[str, Any]:
    """Read a JSON file of options.

    Raises:
        InputError: it is not one.
    """
    try:
        options = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file ({file_kind(path) or error}); {published}") from error
    if not isinstance(options, dict):
        raise InputError(f"{path}: expected a table of options; {published}")
    return options


def _sources(module: nn.Module, weights: Weights, prefix: str) -> Sources:
    """Map every weight of the module to its name in the file, which depends on the version of the packages.

    prefix: by the version of transformers, all names have it or none.
    """

    def names(name: str) -> list[str]:
        bare = name.removeprefix(prefix)
        return [name, bare, prefix + bare, replace_parts(name, _OLD_ATTENTION)]

    found = {name: next((known for known in names(name) if known in weights), name) for name in module.state_dict()}
    return {name: (key, same) for name, key in found.items()}
