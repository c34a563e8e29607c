"""Networks in the folders that diffusers and transformers write: `config.json` and a file of weights beside it.

A folder is one on this machine, or `owner/name` or `owner/name/folder` on the Hugging Face hub. `published`, in all
functions here, is where the official one is found and under which licence: said when something is wrong with it.
"""

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from liftstudio.core.assets import input_path
from liftstudio.core.errors import InputError
from liftstudio.core.weights import Weights, find_file, is_hub_name
from liftstudio.priors.latent_diffusion import Part, Sources, replace_parts, same
from liftstudio.priors.latent_prior import LATENT_SCALE

_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # of diffusers before 0.15
_OLD_STEMS = {"model": "pytorch_model"}
_SCHEDULER = "scheduler/scheduler_config.json"

Build = Callable[[dict[str, Any]], nn.Module]  # a network of the options in `config.json`


def check_folder(folder: str, published: str) -> None:
    """Raise an InputError for what is neither a folder here nor can be one on the hub."""
    if not input_path(folder).is_dir() and not is_hub_name(folder):
        raise InputError(f"{folder}: no such folder; {published}")


def read_scheduler(folder: str, predictions: Sequence[str], published: str) -> dict[str, Any]:
    """The options of a pipeline's noise schedule, `prediction_type` among them: what its network estimates.

    Args:
        predictions: that the caller knows.

    Raises:
        InputError: there is none, or the network estimates something else.
    """
    path = find_file(f"{folder}/{_SCHEDULER}", published)
    options = {"prediction_type": "epsilon"} | _read_options(path, published)  # that is diffusers' default
    if options["prediction_type"] not in predictions:
        wanted, got = " or ".join(predictions), options["prediction_type"]
        raise InputError(f"{path}: prediction_type: expected {wanted}, got {got}; {published}")
    return options


def check_predicts_noise(folder: str, published: str) -> None:
    """Raise an InputError for a pipeline whose noise schedule is there and says that its network estimates no noise."""
    try:
        find_file(f"{folder}/{_SCHEDULER}")
    except InputError:
        return
    read_scheduler(folder, ("epsilon",), published)


def diffusers_part(cls: Any, folder: str, published: str) -> Part:
    """The network in a folder of diffusers.

    Args:
        cls: the network's class there.

    Raises:
        InputError: there is none, or one of another class.
    """

    def build(options: dict[str, Any]) -> nn.Module:
        if options.get("_class_name") != cls.__name__:
            raise ValueError(f"expected a {cls.__name__}, got '_class_name': {options.get('_class_name')!r}")
        return cls.from_config(options)

    return _part(build, folder, "diffusion_pytorch_model", "", published)


def autoencoder_part(folder: str, published: str) -> Part:
    """The autoencoder in a folder of diffusers.

    Raises:
        InputError: there is none, or one whose latents are scaled otherwise than Stable Diffusion's.
    """
    from diffusers import AutoencoderKL  # takes seconds to import

    part = diffusers_part(AutoencoderKL, folder, published)
    scale = part.module.config.scaling_factor
    if scale != LATENT_SCALE:
        raise InputError(f"{folder}: its latents are scaled by {scale}, not by {LATENT_SCALE:g}; {published}")
    return part


def latent_side(unet: Part, published: str) -> int:
    """Pixels across the square latents that a UNet was made for.

    Raises:
        InputError: its config.json does not say.
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
    """CLIP's image tower in a folder that has both towers or this one alone.

    Args:
        projected: with the projection to its embedding, which is that of texts, too.

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
    """CLIP's text tower in a folder.

    Raises:
        InputError: there is none.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    def build(options: dict[str, Any]) -> nn.Module:
        return CLIPTextModel(CLIPTextConfig.from_dict(options))

    return _part(build, folder, "model", "text_model.", published)


def open_tokenizer(folder: str, tower: Any, published: str) -> Any:
    """CLIP's tokenizer in a folder, for a text tower.

    Raises:
        InputError: there is none, or one that has more words than the tower knows.
    """
    from transformers import CLIPTokenizer

    place = find_file(f"{folder}/tokenizer_config.json", published).parent
    with contextlib.suppress(InputError):
        find_file(f"{folder}/special_tokens_map.json")
    try:
        find_file(f"{folder}/tokenizer.json")  # all in one, as the latest transformers write it
    except InputError:
        for name in ("vocab.json", "merges.txt"):
            find_file(f"{folder}/{name}", published)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:  # the reader raises a dozen unrelated types
        raise InputError(f"{place}: not a readable tokenizer ({type(error).__name__}); {published}") from error
    if len(tokenizer) > tower.config.vocab_size:
        known = f"the text tower knows {tower.config.vocab_size}"
        raise InputError(f"{place}: {len(tokenizer)} words, but {known}; {published}")
    return tokenizer


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Those of a text, taken literally, between its start's and its end's; as many as it has.

    A special token's name in it, as "<|endoftext|>", is text as well.
    """
    return tokenizer(text, verbose=False, split_special_tokens=True).input_ids


@torch.no_grad()
def embed_tokens(tokenizer: Any, tower: Any, texts: Sequence[list[int]]) -> Tensor:
    """[texts, L, D] float32, what UNets attend to, of the tokens of texts, padded to the L that the tower takes."""
    length = tower.config.max_position_embeddings
    padded = [[*ids, *[tokenizer.pad_token_id] * (length - len(ids))] for ids in texts]
    return tower(torch.tensor(padded, device=tower.device)).last_hidden_state.float()


def open_folder_weights(folder: str, stem: str, published: str) -> Weights:
    """The weights in full precision, or else in half, or else as older versions of the two packages wrote them.

    Args:
        stem: of the file's name: "model" or "diffusion_pytorch_model".

    Raises:
        InputError: there are none, or they are not readable.
    """
    names = [f"{stem}.safetensors", f"{stem}.fp16.safetensors", f"{_OLD_STEMS.get(stem, stem)}.bin"]
    for name in names:
        with contextlib.suppress(InputError):
            path = find_file(f"{folder}/{name}")
            break
    else:
        path = find_file(f"{folder}/{names[0]}", published)  # says what is missing
    return Weights(path)


def _part(build: Build, folder: str, stem: str, prefix: str, published: str) -> Part:
    check_folder(folder, published)
    module = _built(build, find_file(f"{folder}/config.json", published), published)
    for part in module.modules():
        if isinstance(positions := getattr(part, "position_ids", None), Tensor):  # in no file
            part.position_ids = torch.arange(positions.shape[-1])[None]
    weights = open_folder_weights(folder, stem, published)
    return Part(module, weights, _sources(module, weights, prefix))


def _built(build: Build, path: Path, published: str) -> nn.Module:
    """The network of the options in a file, without memory."""
    options = _read_options(path, published)
    try:
        with torch.device("meta"):
            return build(options)
    except Exception as error:  # classes of two packages check their options in many ways
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: no network can be made of it ({reason[0]}); {published}") from error


def _read_options(path: Path, published: str) -> dict[str, Any]:
    try:
        options = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file ({error}); {published}") from error
    if not isinstance(options, dict):
        raise InputError(f"{path}: expected a table of options; {published}")
    return options


def _sources(module: nn.Module, weights: Weights, prefix: str) -> Sources:
    """Every weight of the module by its name in the file: files and packages are of different ages.

    prefix: of all names, or of none, by the version of transformers.
    """

    def names(name: str) -> list[str]:
        bare = name.removeprefix(prefix)
        return [name, bare, prefix + bare, replace_parts(name, _OLD_ATTENTION)]

    found = {name: next((known for known in names(name) if known in weights), name) for name in module.state_dict()}
    return {name: (key, same) for name, key in found.items()}
