"""Texts of ImageDream and MVDream: what their encoder reads, loses and lacks."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_imagedream import TEXT_LENGTH, write_tiny_text
from imagedream_inputs import CAPTION, CPU, cameras, input_of, latents_of, open_imagedream

from liftstudio.core.errors import InputError
from liftstudio.methods.imagedream.text import TextEncoder
from liftstudio.priors.base import NoisyViews


def test_text_decides(folder: Path, text_only: Any, generator: torch.Generator) -> None:
    path, text = folder / "tiny-4view.safetensors", folder / "text"
    latents = latents_of(text_only, generator)
    one, other = (open_imagedream(path, text, prompt=text_prompt) for text_prompt in ("dog", "a: 'cat' \"${x}\""))
    posed = input_of(generator)
    estimates = [p.denoise(NoisyViews(latents, 1.0, p.condition(posed), cameras())) for p in (text_only, one, other)]
    assert (estimates[0] - estimates[1]).abs().max() > 1e-3 and (estimates[1] - estimates[2]).abs().max() > 1e-3
    assert torch.equal(text_only.text[1], one.text[1]) and not torch.equal(text_only.text[0], one.text[0])
    longer = open_imagedream(path, text, prompt="dog", prompt_suffix=", 3d asset")
    whole = open_imagedream(path, text, prompt="dog, 3d asset")
    assert torch.equal(longer.text[0], whole.text[0]) and not torch.equal(longer.text[0], one.text[0])
    other = open_imagedream(path, text, negative_prompt="bad")
    assert torch.equal(text_only.text[0], other.text[0]) and not torch.equal(text_only.text[1], other.text[1])


def test_a_long_prompt_is_cut_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every letter is a token here: 10 fit between start and end."""
    encoder = TextEncoder(str(folder / "text"))
    with caplog.at_level(logging.WARNING, logger="liftstudio"):
        tokens = encoder.encode({"prompt": "abcdefghij", "other": "abc"}, CPU)
        assert not caplog.text
        long = encoder.encode({"prompt": "abcdefghij klm n"}, CPU)
    assert re.search(r"prompt: too long, only the first 10 tokens are used; lost: klm n", caplog.text), caplog.text
    assert tokens.shape == (2, TEXT_LENGTH, 16) and long.shape == (1, TEXT_LENGTH, 16)


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("Big  bad\n Anatomy, Low", "Anatomy, Low"),  # cut within the third word
        ("Anatomical-Anatomy", "Anatomical-Anatomy"),
        ("abcdefghi j\tÉ", "É"),
    ],
)
def test_lost_words_are_logged_as_written(folder: Path, text: str, lost: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whole words, as written by the user."""
    encoder = TextEncoder(str(folder / "text"))
    with caplog.at_level(logging.WARNING, logger="liftstudio"):
        encoder.encode({"prompt": text}, CPU)
    assert caplog.messages == [f"prompt: too long, only the first 10 tokens are used; lost: {lost}"]


@pytest.mark.parametrize("special", ["<|endoftext|>", "<|startoftext|>"])
def test_special_tokens_are_plain_letters(folder: Path, special: str, caplog: pytest.LogCaptureFixture) -> None:
    """Special tokens of the tokenizer are plain letters in a text."""
    encoder = TextEncoder(str(folder / "text"))
    with caplog.at_level(logging.WARNING, logger="liftstudio"):
        found = encoder.encode({"prompt": special, "other": special[:7], "short": "a"}, CPU)
    assert "prompt: too long" in caplog.text
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_text_embeddings_equal_those_of_the_stock_pipeline(folder: Path) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "text" / "tokenizer", local_files_only=True)
    tower = CLIPTextModel.from_pretrained(folder / "text" / "text_encoder", local_files_only=True).eval()
    ids = tokenizer([CAPTION], padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = tower(ids).last_hidden_state
    found = TextEncoder(str(folder / "text")).encode({"prompt": CAPTION}, CPU)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_without_a_prompt_there_is_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="liftstudio"):
        open_imagedream(folder / "tiny-ipmv.safetensors", folder / "text", prompt="")
    assert "no prompt" in caplog.text


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: remove(f / "text_encoder/model.safetensors"), r"model\.safetensors: no such file"),
        (lambda f: remove(f / "text_encoder/config.json"), r"config\.json: no such file"),
        (lambda f: (f / "text_encoder/config.json").write_text("{"), r"config\.json: not a JSON file"),
        (
            lambda f: (f / "text_encoder/config.json").write_text('{"hidden_size": "wide"}'),
            r"config\.json: no network can be built from it",
        ),
        (lambda f: remove(f / "tokenizer/tokenizer_config.json"), r"tokenizer_config\.json: no such file"),
        (lambda f: remove(f / "tokenizer/vocab.json"), r"vocab\.json: no such file"),
    ],
)
def test_missing_text_weights(folder: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    """One line that names the file, what is expected, where it is published, and its licence."""
    text = write_tiny_text(tmp_path / "text")
    damage(text)
    with pytest.raises(InputError, match=f"{message}.*text_encoder/ and tokenizer/.*licence.*huggingface") as raised:
        open_imagedream(folder / "tiny-ipmv.safetensors", text)
    assert "\n" not in str(raised.value)
