"""Embeddings of images and texts for cosine similarity: CLIP, or a tiny encoder that needs no weights."""

import math
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.core.errors import InputError
from liftstudio.core.files import stand_in
from liftstudio.data.images import resize_smooth

CLIP_PUBLISHED = (
    "published as openai/clip-vit-large-patch14 at https://huggingface.co (OpenAI's repository: MIT); expected a "
    "folder with its config.json, model.safetensors, vocab.json and merges.txt"
)
# OpenAI's CLIP preprocessing.
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_BATCH = 16  # images embedded together

_COLOUR_LEVELS = 4  # per channel of the colour histogram
_EDGE_SIZE, _EDGE_CELLS, _EDGE_ANGLES = 64, 4, 8  # pixels; cells per side; directions over 180 degrees


class ImageEncoder(Protocol):
    """An encoder of images; `name` identifies it in reports."""

    name: str

    def images(self, images: Tensor) -> Tensor:
        """Embeddings [B, E] float, of any norm, of images [B, H, W, 3] (sRGB in [0, 1], composited over white)."""


class TinyEncoder:
    """Histograms of colours and edges: a stand-in for CLIP that needs no weights and captures no semantics.

    An embedding has unit length. It holds the square roots of a soft histogram of 4x4x4 colours and of the greyscale
    edge strength by cell (4x4) and direction (8), each normalised to a length of 1 / sqrt(2). So the cosine of two
    images is the mean of two Bhattacharyya coefficients, in [0, 1]. There is no text encoder; see `diversity.centroid`.
    """

    name = "tiny encoder (histograms of colours and edges, not CLIP)"

    def images(self, images: Tensor) -> Tensor:
        """Embeddings [B, 192] float32 of images [B, H, W, 3] (sRGB in [0, 1], composited over white).

        Raises:
            ValueError: for another shape.
        """
        check_shape("images", images, ("B", "H", "W", 3))
        images = images.float().clamp(0, 1)
        parts = torch.cat([_colours(image[None]) for image in images]), _edges(images)
        return torch.cat([F.normalize(part, p=1, dim=1).sqrt() for part in parts], dim=1) / math.sqrt(2)


class Clip:
    """CLIP (Radford et al. 2021) with OpenAI's preprocessing: projected, unnormalised embeddings of images and texts.

    Args:
        folder: a checkpoint in the layout of transformers' `CLIPModel`, with its tokenizer. HarmonyView's figures use
            ViT-L/14. OpenAI's own file is not supported, as it contains code and not only tensors.
        device: device of the network and of the embeddings.

    Raises:
        InputError: the folder is missing, or its contents are not such a checkpoint.
    """

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu") -> None:
        from transformers import CLIPModel, CLIPTokenizer

        options: dict[str, Any] = {"pretrained_model_name_or_path": str(folder), "local_files_only": True}
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: no such folder; CLIP is {CLIP_PUBLISHED}")
        try:
            self._tokenizer = CLIPTokenizer.from_pretrained(**options)
            loaded: Any = CLIPModel.from_pretrained(**options, output_loading_info=True)
        except Exception as error:  # many unrelated types
            reason = stand_in(Path(folder)) or (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"{folder}: not a CLIP checkpoint ({reason}); CLIP is {CLIP_PUBLISHED}") from error
        model, missing = loaded[0], sorted(loaded[1]["missing_keys"])
        if missing:  # transformers would initialise them randomly
            raise InputError(f"{folder}: the weight '{missing[0]}' is missing; CLIP is {CLIP_PUBLISHED}")
        self._model = model.to(device, torch.float32).eval()
        self.name = f"CLIP ({Path(folder).resolve().name})"

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Embeddings [B, E] of images [B, H, W, 3] (sRGB in [0, 1], composited over white).

        The shorter side is resized to the network's input size (bicubic, antialiased); then the centre is cropped.

        Raises:
            ValueError: for another shape.
        """
        check_shape("images", images, ("B", "H", "W", 3))
        vision = self._model.vision_model
        pixels = clip_pixels(images, self._model.config.vision_config.image_size).to(self._model.device)
        pooled = [vision(pixel_values=chunk).pooler_output for chunk in pixels.split(_BATCH)]
        return self._model.visual_projection(torch.cat(pooled))

    @torch.no_grad()
    def text(self, prompt: str) -> Tensor:
        """Embedding [E] of a prompt, truncated to the network's maximum length."""
        longest = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer([prompt], truncation=True, max_length=longest, return_tensors="pt")
        pooled = self._model.text_model(**tokens.to(self._model.device)).pooler_output
        return self._model.text_projection(pooled)[0]


def clip_pixels(images: Tensor, size: int) -> Tensor:
    """Normalised input [B, 3, size, size] of a CLIP image encoder from images [B, H, W, 3] in [0, 1]."""
    height, width = images.shape[1:3]
    scale = size / min(height, width)
    resized = (max(size, int(height * scale)), max(size, int(width * scale)))
    pixels = images.float().permute(0, 3, 1, 2)
    pixels = F.interpolate(pixels, resized, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (round((side - size) / 2) for side in resized)
    pixels = pixels[:, :, top : top + size, left : left + size]
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (_CLIP_MEAN, _CLIP_STD))
    return (pixels - mean) / std


def object_prompt(name: str) -> str:
    """The prompt of the CD score for an object's name, as in HarmonyView: "toy_bus1" gives "An image of toy bus"."""
    return "An image of " + "".join(letter for letter in name.replace("_", " ") if not letter.isdigit())


def load_encoder(folder: str | Path | None, device: torch.device | str = "cpu") -> Clip | TinyEncoder:
    """CLIP from the folder; the tiny encoder if none is given.

    Raises:
        InputError: the given folder is not a CLIP checkpoint.
    """
    return Clip(folder, device) if folder else TinyEncoder()


def _colours(images: Tensor) -> Tensor:
    """Soft colour histogram [B, 64]: each channel of a pixel is shared between the two nearest of 4 levels."""
    levels = torch.arange(_COLOUR_LEVELS, device=images.device)
    shares = (1 - (images[..., None] * (_COLOUR_LEVELS - 1) - levels).abs()).clamp_min(0).flatten(1, 2)
    red, green, blue = shares.unbind(dim=2)
    return torch.einsum("bni,bnj,bnk->bijk", red, green, blue).flatten(1)


def _edges(images: Tensor) -> Tensor:
    """Greyscale edge strength [B, 128] by cell of the image and direction."""
    grey = resize_smooth(images.mean(dim=-1, keepdim=True), _EDGE_SIZE, _EDGE_SIZE).permute(0, 3, 1, 2)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    place = torch.atan2(down, across) / math.pi % 1 * _EDGE_ANGLES
    directions = torch.arange(_EDGE_ANGLES, device=images.device)[:, None, None]
    apart = (place - directions).abs()
    shares = (1 - torch.minimum(apart, _EDGE_ANGLES - apart)).clamp_min(0)  # directions wrap around at 180 degrees
    return F.adaptive_avg_pool2d(shares * torch.hypot(across, down), _EDGE_CELLS).flatten(1)
