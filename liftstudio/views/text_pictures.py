"""Pictures of an object that a text-to-image pipeline makes from a text; the best one is chosen by its silhouette."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_path
from liftstudio.core.logs import WorkProgress, log
from liftstudio.data.images import load_image
from liftstudio.priors.network_folders import loading
from liftstudio.views.input_image import Ways, cut_out
from liftstudio.views.silhouettes import (
    FOREGROUND,
    OTHER,
    SPECK,
    bounding_box,
    largest_object,
    main_pieces,
    sides_touched,
)

OPTION = "text_to_image.model"
HINT = "the folder of a text-to-image pipeline in diffusers' format, or its name on the Hugging Face hub"


@dataclass(frozen=True)
class Candidate:
    """A made picture and how well it shows one object.

    image:      [H, W, 4] float32 straight sRGB and alpha of the largest object.
    sides:      of the picture that cut the object off.
    apart:      share of the foreground that is not of the largest object.
    off_centre: of the middle of the object's box from the picture's, in halves of its sides.
    """

    image: Tensor
    sides: list[str]
    apart: float
    off_centre: float

    def fault(self) -> str:
        """Return why it does not show one whole object; "" if it does."""
        if self.sides:
            return f"cut off at the {' and '.join(self.sides)}"
        return f"several objects: {self.apart:.0%} is apart from the largest" if self.apart > OTHER else ""


@torch.no_grad()
def make_pictures(
    text: str, model: str, folder: Path, *, seeds: range, steps: int, device: torch.device
) -> dict[int, Path]:
    """Write pictures of a text by a diffusers pipeline into a folder; returns seed -> file.

    Args:
        text: all of the prompt.
        model: folder of the pipeline, or its name on the Hugging Face hub, from which it is downloaded.
        seeds: of the pictures.
        steps: denoising steps; 0: the pipeline's default.

    Raises:
        InputError: there is no such pipeline.
    """
    with loading(OPTION, model, "text-to-image pipeline") as name:
        from diffusers import AutoPipelineForText2Image  # takes seconds to import

        dtype = torch.float16 if device.type == "cuda" else torch.float32
        pipeline: Any = AutoPipelineForText2Image.from_pretrained(name, dtype=dtype, use_safetensors=True)
    pipeline.to(device).set_progress_bar_config(disable=True)
    options = {"num_inference_steps": steps} if steps else {}
    made = {seed: folder / f"seed-{seed}.png" for seed in seeds}
    with WorkProgress("picture") as progress:
        for index, (seed, path) in enumerate(made.items()):
            progress(f"seed {seed}", index / len(seeds))
            generator = torch.Generator().manual_seed(seed)
            image = pipeline(prompt=text, generator=generator, **options).images[0]
            with atomic_path(path) as temporary:
                image.convert("RGB").save(temporary)
    return made


def best_picture(made: dict[int, Path]) -> Tensor:
    """Return the best of some pictures [H, W, 4], cut out: whole, of one piece and in the middle.

    made: seed -> file.

    Raises:
        InputError: none of them shows one whole object; says why for each.
    """
    found, faults = dict[int, Candidate](), list[str]()
    for seed, path in made.items():
        try:
            candidate = judged(path)
            fault = candidate.fault()
        except InputError as error:
            fault = str(error).removeprefix(f"{path}: ")
        if fault:
            faults.append(f"seed {seed}: {fault}")
        else:
            found[seed] = candidate
            log.info("picture: seed %d: %.0f %% off the centre", seed, 100 * candidate.off_centre)
    if not found:
        folder = next(iter(made.values())).parent
        raise InputError(
            f"text: no picture in {folder} shows one whole object ({'; '.join(faults)}); try another seed, a larger "
            "text_to_image.count, or a simpler text"
        )
    seed, best = min(found.items(), key=lambda item: item[1].apart + item[1].off_centre)
    log.info("picture: of %d that were made, seed %d is taken", len(made), seed)
    return best.image


def judged(path: Path) -> Candidate:
    """Return a made picture, cut out, and its measures.

    Raises:
        InputError: see `input_image.cut_out`, or nothing is in it.
    """
    rgb, alpha = cut_out(path, load_image(path)[0], None, None, Ways(saves=False))
    alpha = main_pieces(alpha, SPECK)[0]
    inside = alpha[..., 0] > FOREGROUND
    if not inside.any():
        raise InputError(f"{path}: nothing is in it")
    mask = torch.from_numpy(largest_object(inside.numpy())[0])
    object_alpha = torch.where(mask[..., None], alpha, 0)
    left, top, right, bottom = bounding_box(object_alpha) or (0, 0, 0, 0)
    height, width = mask.shape
    off_centre = max(abs(left + right - width) / width, abs(top + bottom - height) / height)
    apart = 1 - float(mask.sum() / inside.sum())
    return Candidate(torch.cat([rgb, object_alpha], dim=-1), sides_touched(object_alpha), apart, off_centre)
