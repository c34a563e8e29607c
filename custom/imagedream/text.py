"""The text as the networks were shown text: tokens of Stable Diffusion 2.1's text tower, encoded once."""

from itertools import takewhile

import torch
from torch import Tensor

from liftstudio.core.logs import log
from liftstudio.priors.network_folders import check_folder, embed_tokens, open_tokenizer, text_tower_part, token_ids

from .layout import WANTED_TEXT


class TextEncoder:
    """Text tower and tokenizer of a folder, checked; the weights are read when something is encoded."""

    def __init__(self, folder: str) -> None:
        """Find them.

        Args:
            folder: with `text_encoder` and `tokenizer` in it, here or `owner/name` on the hub.
        Raises:
            InputError: they are not there.
        """
        check_folder(folder, WANTED_TEXT)
        self.part = text_tower_part(f"{folder}/text_encoder", WANTED_TEXT)
        self.part.check()
        self.tokenizer = open_tokenizer(f"{folder}/tokenizer", self.part.module, WANTED_TEXT)
        self.width: int = self.part.module.config.hidden_size
        self.length: int = self.part.module.config.max_position_embeddings

    def encode(self, texts: dict[str, str], device: torch.device) -> Tensor:
        """[texts, length, width] float32 of texts by their options' names; the tower is in memory only here."""
        tokens = [self._tokens(name, text) for name, text in texts.items()]
        return embed_tokens(self.tokenizer, self.part.load(torch.float32, device), tokens)

    def _tokens(self, name: str, text: str) -> list[int]:
        """Of a too long text the rest is dropped; the log has the words that are not wholly kept."""
        ids = token_ids(self.tokenizer, text)
        if len(ids) <= self.length:
            return ids
        lost = self._lost(text.split())
        log.warning("%s: too long, only its first %d tokens are used; lost: %s", name, self.length - 2, lost)
        return [*ids[: self.length - 1], ids[-1]]

    def _lost(self, words: list[str]) -> str:
        """The words after as many as fit."""

        def fits(count: int) -> bool:
            return len(token_ids(self.tokenizer, " ".join(words[:count]))) <= self.length

        kept = max(takewhile(fits, range(1, len(words) + 1)), default=0)
        return " ".join(words[kept:])
