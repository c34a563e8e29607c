"""A captioner in miniature: a random BLIP with its vocabulary, as transformers writes it."""

from pathlib import Path
from typing import Any

import torch

from helpers.tiny_sv3d import randomize

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "corgi", "owl", "wooden", "toy", "red", "suit"]


def write_tiny_captioner(folder: Path, seed: int = 0) -> Path:
    """Write the whole folder; its captions are made of WORDS without brackets."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    text = {**sizes, **ends, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 40}
    config = BlipConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16})
    network: Any = randomize(BlipForConditionalGeneration(config), torch.Generator().manual_seed(seed))
    network.text_decoder.cls.predictions.bias.data[:5] = -100  # no special token
    network.save_pretrained(folder)
    images: Any = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(images, BertTokenizer(str(folder / "vocab.txt"))).save_pretrained(folder)
    return folder
