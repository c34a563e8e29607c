"""Stable Diffusion 2's depth model as a component, with what enhancement and distillation need."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from liftstudio.core.assets import SCHEME, input_path
from liftstudio.core.cache import file_digest
from liftstudio.core.checks import check_range
from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.core.ranges import NonNegativeInt
from liftstudio.core.registry import Component, register
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.priors.chunks import frames_at_once
from liftstudio.priors.network_folders import check_folder
from liftstudio.priors.precision import network_dtype
from liftstudio.priors.samplers import scaled_linear_alpha_bars

from .checkpoint import PUBLISHED, open_folder
from .ddim import TimestepGrid
from .injection import injection
from .model import Prompts, check_image_size, check_prompt, decode, embed_text, encode, resolution, shrinkage

KIND = "depth-prior"
NAME = "sd2-depth"
GREY = 0.5  # background of reference and views: the model does badly over black or white


@register(NAME)
class DepthPrior(Component):
    """Latent diffusion of images conditioned on text and depth: Stable Diffusion 2's depth model, or one built like it.

    Its folder is checked on construction; a network is loaded at its first use. No gradients reach the weights.

    It is a kind of its own because a `Prior` does something else: it denoises views of one object, given an image and
    cameras, from any noise level. This model is conditioned on text and depth, is inverted as well as sampled, in the
    steps of a grid, and has its attention replaced meanwhile.
    """

    kind: ClassVar[str] = KIND

    @dataclass
    class Config:
        weights: str = "asset://priors/depth-tiny"  # folder in diffusers' form: unet, vae, text_encoder, tokenizer
        precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the UNet; auto: by device
        chunk: NonNegativeInt = 0  # images through a network at once; 0: by their size, 4 at 256 pixels, 1 from 512

    evaluations: int  # images through the UNet so far

    def __init__(self, config: Config, *, device: torch.device) -> None:
        """Check the folder.

        Raises:
            InputError: as `checkpoint.open_folder`.
        """
        self.config, self.device, self.evaluations = config, device, 0
        self.parts = open_folder(config.weights)
        modules = self.parts.unet.module, self.parts.vae.module
        self.resolution = resolution(*modules)  # pixels across the images it was made for
        self.shrinkage = shrinkage(modules[1])  # image pixels per latent pixel, along one side
        self.side = self.resolution // self.shrinkage  # pixels across the latents of such images

    def check(self, prompt: str, last_layers: int, size: int) -> None:
        """Raise for options that the model does not support, before anything is computed.

        Args:
            prompt: text to embed.
            last_layers: as `injection`.
            size: pixels across the images.

        Raises:
            InputError: the prompt is too long, there is no self-attention at the last layers, the encoder does not
                take images of this size, or they are smaller than half the model's resolution.
        """
        parts = self.parts
        check_range("resolution", size, self.resolution // 2)
        check_prompt(parts.tokenizer, parts.text.module, prompt)
        check_image_size("resolution", size, size, parts.unet.module, parts.vae.module)
        with injection(parts.unet.module, last_layers):
            pass

    def announce(self, user: str) -> None:
        """Log which model `user` runs."""
        log.info("%s: depth prior %s", user, self.config.weights)
        if self.config.weights.startswith(SCHEME):
            log.info("%s: this is the small bundled prior, a stand-in for Stable Diffusion 2's depth model", user)

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines its results, as plain data: precision, and digests of its files."""
        weights = [part.weights.path for part in (self.parts.unet, self.parts.vae, self.parts.text)]
        files = [file for path in weights for file in sorted(path.parent.glob("*.json"))] + weights
        files += sorted(file for file in weights[0].parent.with_name("tokenizer").iterdir() if file.is_file())
        return {
            "precision": self.config.precision,
            "files": {f"{file.parent.name}/{file.name}": file_digest(file) for file in files},
        }

    @property
    def chunk(self) -> int:
        """Number of images through a network at once."""
        return frames_at_once(self.resolution, self.config.chunk)

    @cached_property
    def unet(self) -> Any:
        """The network; images through it are counted in `evaluations`."""

        def count(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            self.evaluations += len(arguments[0])

        part = self.parts.unet
        network = part.load(network_dtype(self.config.precision, self.device, part.module), self.device)
        network.register_forward_pre_hook(count)
        return network

    @cached_property
    def _vae(self) -> Any:
        return self.parts.vae.load(torch.float32, self.device)

    def encode(self, images: Tensor, name: str = "image") -> Tensor:
        """Return latents [B, 4, h, w] float32 of images [B, H, W, 3] in [0, 1], over `GREY`; differentiable.

        Raises:
            InputError: the encoder does not take this size; the message starts with `name`.
        """
        unet = self.parts.unet.module
        return torch.cat([encode(unet, self._vae, chunk, name) for chunk in images.split(self.chunk)])

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [B, H, W, 3] in [0, 1] of latents [B, 4, h, w]."""
        return torch.cat([decode(self._vae, chunk) for chunk in latents.split(self.chunk)])

    def prompts(self, text: str) -> Prompts:
        """Return the embedded text, and the embedded empty text."""
        tower = self.parts.text.load(torch.float32, self.device)
        empty, target = (embed_text(self.parts.tokenizer, tower, each) for each in ("", text))
        return Prompts(empty, target)

    @staticmethod
    def grid(steps: int) -> TimestepGrid:
        """Return a grid of `steps` timesteps on the noise levels of Stable Diffusion."""
        return TimestepGrid.of(scaled_linear_alpha_bars(), steps)


@dataclass
class UnetWork:
    """Work of a model's UNet for a guidance.

    turns:       losses so far.
    evaluations: images through the UNet for them.
    """

    prior: DepthPrior
    turns: int = 0
    evaluations: int = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Count the evaluations inside as one turn; a turn that raises is not counted."""
        before = self.prior.evaluations
        yield
        self.turns, self.evaluations = self.turns + 1, self.evaluations + self.prior.evaluations - before

    def metrics(self) -> dict[str, float]:
        """Return the number of images per turn, for the log."""
        return {"unet_evaluations": self.evaluations / max(1, self.turns)}


def check_options(prior: ComponentSpec, prompt: str, last_layers: int = 1) -> None:
    """Raise for options of a depth prior that would fail when the guidance is built, after views are made.

    No weight is read. For a hub name only its form is checked: reading a config downloads nothing.

    Raises:
        InputError: starts with the option's name: the folder does not exist or is rejected, the prompt is too long, or
            there is no self-attention at the last layers.
    """
    weights = prior.options.weights
    try:
        check_folder(weights, PUBLISHED)
        model: DepthPrior | None = prior.build(device=torch.device("cpu")) if input_path(weights).is_dir() else None
    except InputError as error:
        raise InputError(f"prior.weights: {error}") from None
    if model is not None:
        model.check(prompt, last_layers, model.resolution)


def warn_of_shrinking(user: str, views: ReferenceViews, size: int) -> None:
    """Log a warning if views have more pixels than the model's `size` across."""
    height, width = views.images.shape[1:3]
    if max(height, width) > size:
        log.warning(
            "%s: views of %dx%d pixels are reduced to the model's %dx%d; finer detail is lost",
            *(user, width, height, size, size),
        )


def bundled() -> ComponentSpec:
    """Return the default spec: the bundled model."""
    return ComponentSpec(KIND, NAME, DepthPrior.Config())
