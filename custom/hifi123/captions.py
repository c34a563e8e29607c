"""Captions of training objects, and a tokenizer for their words."""

import colorsys
import json
import string
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from liftstudio.core.files import atomic_write
from liftstudio.synthetic import TexturedObject

START, END = "<|startoftext|>", "<|endoftext|>"
TOKENS = 77  # per text, with start, end and padding, as in Stable Diffusion

_NOUNS = ("toy figure", "toy", "figure", "object")
_PATTERNS = ("plain", "striped", "shaded", "halved", "checked", "spotted", "wavy")  # of `textures.Pattern`, in order
_GREYS = ("black", "grey", "white")
_HUES = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink")
# Upper end of each hue, as a fraction of a turn; then red again.
_HUE_ENDS = (0.04, 0.11, 0.19, 0.43, 0.54, 0.71, 0.83, 0.95)
_GREY_SATURATION, _DARK = 0.18, 0.2
_WORDS = ("a", "an", "the", "and", "of", "with", *" ".join(_NOUNS).split(), *_PATTERNS, *_GREYS, *_HUES)


def draw_caption(obj: TexturedObject | None, generator: torch.Generator) -> str:
    """Draw a short description of an object: half of the time its `caption` if the object is known, else a noun."""
    noun = _NOUNS[_draw(len(_NOUNS), generator)]
    if obj is None or not _draw(2, generator):
        return f"{'an' if noun == 'object' else 'a'} {noun}"
    return caption(obj, noun)


def caption(obj: TexturedObject, noun: str) -> str:
    """Return a caption of an object: the colours and the pattern of its body, and what it is."""
    names = [color_name(*obj.colors[0, which]) for which in (0, 1)]
    pattern = int(obj.patterns[0])
    colors = names[0] if pattern == 0 else f"{names[0]} and {names[1]}"
    return f"{'an' if colors.startswith('orange') else 'a'} {colors} {_PATTERNS[pattern]} {noun}"


def color_name(red: float, green: float, blue: float) -> str:
    """Return the name of an sRGB colour in [0, 1]."""
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    if value < _DARK:
        return _GREYS[0]
    if saturation < _GREY_SATURATION:
        return _GREYS[1 + (value > 0.8)]
    return _HUES[int(np.searchsorted(_HUE_ENDS, hue)) % len(_HUES)]


def caption_tokens(text: str) -> Tensor:
    """Return the [77] int64 tokens of a caption or the empty text, as the tokenizer of `write_tokenizer` does."""
    numbers = _vocabulary()
    inside = [numbers[f"{word}</w>"] for word in text.split()]
    ends = [numbers[END]] * (TOKENS - 1 - len(inside))
    return torch.tensor([numbers[START], *inside, *ends])


def vocabulary_size() -> int:
    """Return the number of tokens in the vocabulary."""
    return len(_vocabulary())


def write_tokenizer(folder: Path) -> None:
    """Write a CLIP tokenizer in transformers' format: words of captions are one token each, others are spelt out."""
    merges = "\n".join(["#version: 0.2", *map(" ".join, _merges())])
    options = dict.fromkeys(("eos_token", "unk_token", "pad_token"), END)
    options |= {"bos_token": START, "tokenizer_class": "CLIPTokenizer"}
    atomic_write(folder / "vocab.json", json.dumps(_vocabulary()) + "\n")
    atomic_write(folder / "merges.txt", merges + "\n")
    atomic_write(folder / "tokenizer_config.json", json.dumps({**options, "model_max_length": TOKENS}, indent=1) + "\n")


@cache
def _vocabulary() -> dict[str, int]:
    letters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = [START, END, *letters, *(f"{letter}</w>" for letter in letters), *map("".join, _merges())]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


@cache
def _merges() -> tuple[tuple[str, str], ...]:
    """Return the pairs to merge, in order, until each word is one token (byte-pair encoding, Sennrich et al. 2016)."""
    words = [[*word[:-1], f"{word[-1]}</w>"] for word in sorted(set(_WORDS))]
    merges = []
    while counts := Counter(pair for word in words for pair in pairwise(word)):
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        words = [_merged(word, best) for word in words]
    return tuple(merges)


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in word:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
