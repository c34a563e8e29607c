"""The text as the networks were shown text: tokens of Stable Diffusion 2.1's text tower, encoded once."""

import contextlib
from typing import Any

import torch
from torch import Tensor

from liftstudio.errors import InputError
from liftstudio.logs import log
from liftstudio.priors.weights import find_file

from .folders import WANTED_TEXT, text_part_of

# Some of these are there, by transformers' version.
_VOCABULARY = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer.json")


class TextEncoder:
    """Text tower and tokenizer of a folder, checked; the weights are read when something is encoded."""

    def __init__(self, folder: str) -> None:
        """Find them.

        Args:
            folder: with `text_encoder` and `tokenizer` in it, here or `owner/name` on the hub.
        Raises:
            InputError: they are not there.
        """
        self.part = text_part_of(f"{folder}/text_encoder")
        self.tokenizer = _open_tokenizer(f"{folder}/tokenizer", self.part.module.config.vocab_size)
        self.width: int = self.part.module.config.hidden_size
        self.length: int = self.part.module.config.max_position_embeddings

    @torch.no_grad()
    def encode(self, texts: dict[str, str], device: torch.device) -> Tensor:
        """[texts, length, width] float32 of texts by their options' names; the tower is in memory only here."""
        ids = torch.stack([self._tokens(name, text) for name, text in texts.items()])
        tower = self.part.load(torch.float32, device)
        return tower(input_ids=ids.to(device)).last_hidden_state

    def _tokens(self, name: str, text: str) -> Tensor:
        """[length] of a text that is taken literally; of a too long one the rest is dropped, and said to be."""
        ids = self.tokenizer(text, verbose=False)["input_ids"]
        if len(ids) > self.length:
            lost = self.tokenizer.decode(ids[self.length - 1 : -1]).strip()
            log.warning("%s: too long, only its first %d tokens are used; lost: %s", name, self.length - 2, lost)
            ids = [*ids[: self.length - 1], ids[-1]]
        return torch.tensor(ids + [self.tokenizer.pad_token_id] * (self.length - len(ids)))


def _open_tokenizer(folder: str, words: int) -> Any:
    from transformers import CLIPTokenizer

    place = find_file(f"{folder}/tokenizer_config.json", WANTED_TEXT).parent
    for name in _VOCABULARY:
        with contextlib.suppress(InputError):
            find_file(f"{folder}/{name}")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:  # the reader raises a dozen unrelated types
        raise InputError(f"{place}: not a readable tokenizer ({type(error).__name__}); {WANTED_TEXT}") from error
    if len(tokenizer) != words:
        raise InputError(f"{place}: {len(tokenizer)} words, but the text tower knows {words}; {WANTED_TEXT}")
    return tokenizer
