"""Text embeddings for text-to-image models, by CLIP's text tower or T5's encoder."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liftstudio.core.assets import input_path
from liftstudio.core.errors import InputError
from liftstudio.core.files import stand_in
from liftstudio.core.weights import find_file
from liftstudio.priors.network_folders import embed_tokens, open_tokenizer, read_options, text_tower_part, token_ids

T5_TOKENS = 77  # tokens of a text for DeepFloyd IF; shorter texts are padded


def embed_texts(folder: str, texts: dict[str, str], device: torch.device, published: str) -> Tensor:
    """Embed texts: [texts, L, D] float32; the text encoder is in memory only here.

    Args:
        folder: has text_encoder/ and tokenizer/; a local path, or `owner/name` on the hub.
        texts: option name -> text.

    Raises:
        InputError: the folders are missing or not readable, or a text has more tokens than the encoder takes.
    """
    options = read_options(find_file(f"{folder}/text_encoder/config.json", published), published)
    embed = _by_t5 if options.get("model_type") == "t5" else _by_clip
    return embed(folder, texts, device, published)


def _by_clip(folder: str, texts: dict[str, str], device: torch.device, published: str) -> Tensor:
    part = text_tower_part(f"{folder}/text_encoder", published)
    part.check()
    tokenizer = open_tokenizer(f"{folder}/tokenizer", part.module, published)
    tokens = {name: token_ids(tokenizer, text) for name, text in texts.items()}
    for name, ids in tokens.items():
        _check_length(name, len(ids), part.module.config.max_position_embeddings)
    return embed_tokens(tokenizer, part.load(torch.float32, device), list(tokens.values()))


@torch.no_grad()
def _by_t5(folder: str, texts: dict[str, str], device: torch.device, published: str) -> Tensor:
    """Embed in lower case, as the official code does; padding is not attended to."""
    from transformers import AutoTokenizer  # takes seconds to import

    tokenizer = _pretrained(AutoTokenizer, folder, "tokenizer", published)
    for name, text in texts.items():
        _check_length(name, len(tokenizer(text.lower()).input_ids), T5_TOKENS)
    padded = {"padding": "max_length", "max_length": T5_TOKENS, "return_tensors": "pt"}
    tokens = tokenizer([text.lower().strip() for text in texts.values()], **padded).to(device)
    tower = _t5_tower(folder, device, published)
    return tower(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state.float()


def _t5_tower(folder: str, device: torch.device, published: str) -> Any:
    """Load T5's encoder, in bfloat16 on CUDA: float16 would overflow."""
    from transformers import T5EncoderModel

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    tower, found = _pretrained(T5EncoderModel, folder, "text_encoder", published, **options)
    missing = sorted({*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])})
    if missing:
        raise InputError(
            f"{folder}/text_encoder: the weight '{missing[0]}' is missing or has the wrong shape; {published}"
        )
    return tower.to(device).eval()


def _pretrained(cls: Any, folder: str, subfolder: str, published: str, **options: Any) -> Any:
    """Load an object of transformers from a local folder or the hub; its weights may be in several files."""
    place: Path = input_path(folder)
    try:
        if place.is_dir():
            return cls.from_pretrained(str(place / subfolder), local_files_only=True, **options)
        return cls.from_pretrained(folder, subfolder=subfolder, **options)
    except Exception as error:  # it raises a dozen unrelated types
        reason = stand_in(place / subfolder) or (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{folder}/{subfolder}: cannot be loaded ({reason}); {published}") from error


def _check_length(name: str, count: int, most: int) -> None:
    if count > most:
        raise InputError(f"{name}: {count} tokens, but the text encoder takes at most {most}; shorten it")
