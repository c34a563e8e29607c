"""Text encoding as in training: token embeddings by Stable Diffusion 2.1's text encoder, computed once."""

from itertools import takewhile

import torch
from torch import Tensor

from liftstudio.core.logs import log
from liftstudio.priors.network_folders import check_folder, embed_tokens, open_tokenizer, text_tower_part, token_ids

from .layout import EXPECTED_TEXT


class TextEncoder:
    """Text encoder and tokenizer of a folder, checked; weights are read when text is encoded."""

    def __init__(self, folder: str) -> None:
        """Open and check the folder.

        Args:
            folder: with `text_encoder` and `tokenizer` in it; local, or `owner/name` on the hub.

        Raises:
            InputError: one of them is missing.
        """
        check_folder(folder, EXPECTED_TEXT)
        self.part = text_tower_part(f"{folder}/text_encoder", EXPECTED_TEXT)
        self.part.check()
        self.tokenizer = open_tokenizer(f"{folder}/tokenizer", self.part.module, EXPECTED_TEXT)
        self.width: int = self.part.module.config.hidden_size
        self.length: int = self.part.module.config.max_position_embeddings

    def encode(self, texts: dict[str, str], device: torch.device) -> Tensor:
        """Return embeddings [texts, length, width] float32 of texts by option name; the network is freed afterwards."""
        tokens = [self._tokens(name, text) for name, text in texts.items()]
        return embed_tokens(self.tokenizer, self.part.load(torch.float32, device), tokens)

    def _tokens(self, name: str, text: str) -> list[int]:
        """Return token ids; a text that is too long is truncated, and the words lost are logged."""
        ids = token_ids(self.tokenizer, text)
        if len(ids) <= self.length:
            return ids
        lost = self._lost(text.split())
        log.warning("%s: too long, only the first %d tokens are used; lost: %s", name, self.length - 2, lost)
        return [*ids[: self.length - 1], ids[-1]]

    def _lost(self, words: list[str]) -> str:
        """Return the words that do not fit."""

        def fits(count: int) -> bool:
            return len(token_ids(self.tokenizer, " ".join(words[:count]))) <= self.length

        kept = max(takewhile(fits, range(1, len(words) + 1)), default=0)
        return " ".join(words[kept:])
