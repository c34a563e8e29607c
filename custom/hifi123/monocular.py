"""Monocular depth and normals of views, by networks from transformers or diffusers."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.assets import input_path
from liftstudio.core.cache import file_digest
from liftstudio.core.errors import InputError
from liftstudio.core.registry import register
from liftstudio.data.images import resize_smooth
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.priors.network_folders import loading
from liftstudio.views.estimation import MapEstimator

from .depth import Meaning, check_map
from .prior import GREY

_PIPELINE = "model_index.json"  # in the folder of a diffusers pipeline
_MEANINGS: dict[str, Meaning] = {  # of `predicted_depth`, by transformers' model_type; unknown for others
    "dpt": "disparity",
    "depth_anything": "disparity",
    "zoedepth": "distance",
    "depth_pro": "disparity",  # relative to its own focal length; transformers' post-processing inverts it
}
# Of the first fusion layer, which has nothing to add yet; some published files lack them.
_NEVER_USED = re.compile(r"fusion_stage\.(layers|intermediate)\.0\.residual_layer1\.")
_DEFAULTS = ("default_denoising_steps", "default_processing_resolution")  # that Marigold's checkpoints must set
_FILES = (".safetensors", ".bin", ".json")


class DepthEstimator:
    """Depth of images: DPT, Depth Anything, ZoeDepth or Depth Pro of transformers, or diffusers' Marigold.

    meaning: of the returned values, as in `depth.depth_channel`.
    """

    meaning: Meaning

    def __init__(self, source: str, *, device: torch.device) -> None:
        """Load the network.

        Args:
            source: a folder written by transformers or diffusers, or a name on the Hugging Face hub.
            device: where the network runs.

        Raises:
            InputError: there is no such network, it lacks a weight, or its kind is unknown.
        """
        self.device = device
        with loading("estimator", source, "depth estimator") as name:
            is_pipeline = (Path(name) / _PIPELINE).is_file() if Path(name).is_dir() else _is_pipeline(name)
            self._estimate = self._marigold(name) if is_pipeline else self._of_transformers(name)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return depths [B, h, w, 1] float32 of images [B, H, W, 3] in [0, 1], estimated one by one.

        They cover the whole image, at the network's resolution.
        """
        return torch.cat([self._estimate(image[None].to(self.device)) for image in images])

    def _of_transformers(self, name: str) -> Callable[[Tensor], Tensor]:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        network, found = cast(Any, AutoModelForDepthEstimation.from_pretrained(name, output_loading_info=True))
        missing = sorted(key for key in found["missing_keys"] if not _NEVER_USED.search(key))
        if missing:
            raise InputError(f"estimator: {name}: the weight '{missing[0]}' is missing")
        network.to(self.device).eval()
        kind = network.config.model_type
        if kind not in _MEANINGS:
            raise InputError(f"estimator: {name}: expected {', '.join(_MEANINGS)} or Marigold, got '{kind}'")
        is_metric = getattr(network.config, "depth_estimation_type", "relative") == "metric"
        self.meaning = "distance" if is_metric else _MEANINGS[kind]
        processor = cast(Any, AutoImageProcessor.from_pretrained(name))

        def estimate(image: Tensor) -> Tensor:
            pixels = (image[0] * 255).round().byte().cpu().numpy()  # 8-bit, which all processors take
            # Not padded, or the map would cover more than the image: transformers needs torchvision to crop it.
            inputs = processor(images=pixels, do_pad=False, return_tensors="pt")
            return network(inputs["pixel_values"].to(self.device)).predicted_depth[..., None].float()

        return estimate

    def _marigold(self, name: str) -> Callable[[Tensor], Tensor]:
        from diffusers import MarigoldDepthPipeline

        pipeline = _opened(MarigoldDepthPipeline, name, self.device)
        self.meaning = "disparity" if pipeline.config.prediction_type == "disparity" else "depth"

        def estimate(image: Tensor) -> Tensor:
            return _predicted(pipeline, image)

        return estimate


class NormalEstimator:
    """Normals of images by diffusers' Marigold."""

    def __init__(self, source: str, *, device: torch.device) -> None:
        """Load the network.

        Args:
            source: a folder written by diffusers, or a name on the Hugging Face hub.
            device: where the network runs.

        Raises:
            InputError: there is no such network, or it is of another kind.
        """
        self.device = device
        with loading("estimator", source, "normal estimator") as name:
            from diffusers import MarigoldNormalsPipeline

            self._pipeline = _opened(MarigoldNormalsPipeline, name, device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return unit normals [B, H, W, 3] of images [B, H, W, 3] in [0, 1], estimated one by one.

        They are in camera axes: x right, y up, z towards the viewer.
        """
        found = [_predicted(self._pipeline, image[None].to(self.device)) for image in images]
        return F.normalize(torch.cat(found), dim=-1)


def _opened(cls: Any, name: str, device: torch.device) -> Any:
    """Return a Marigold pipeline; checks its class, since diffusers would load any other as this one."""
    found = cls.load_config(name).get("_class_name")
    if found != cls.__name__:
        raise InputError(f"estimator: {name}: expected a {cls.__name__}, got a {found}")
    pipeline = cls.from_pretrained(name).to(device)
    for option in _DEFAULTS:
        if pipeline.config.get(option) is None:
            raise InputError(f"estimator: {name}/{_PIPELINE}: {option} is missing")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _predicted(pipeline: Any, image: Tensor) -> Tensor:
    """Return Marigold's prediction [1, H, W, C] for an image [1, H, W, 3]; its noise is always the same."""
    generator = torch.Generator().manual_seed(0)
    found = pipeline(image.permute(0, 3, 1, 2), generator=generator, output_type="pt")
    return found.prediction.permute(0, 2, 3, 1).float()


def estimator_fingerprint(source: str) -> dict[str, str]:
    """Return what determines an estimator's results: the digests of a folder's files, or the name on the hub."""
    folder: Path = input_path(source)
    if not folder.is_dir():
        return {source: ""}
    files = sorted(file for file in folder.rglob("*") if file.suffix in _FILES)
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in files}


def _is_pipeline(name: str) -> bool:
    import huggingface_hub

    return huggingface_hub.file_exists(name, _PIPELINE)


@register("monocular")
class MonocularMaps(MapEstimator):
    """Depth and normals of each view, estimated independently by networks from transformers and diffusers."""

    @dataclass
    class Config:
        depth: str = ""  # folder or hub name of DPT, Depth Anything, ZoeDepth, Depth Pro or Marigold; empty: no depth
        normals: str = ""  # folder or hub name of Marigold for normals; empty: no normals

    config: Config

    def __init__(self, config: Config, *, device: torch.device) -> None:
        self.config = config
        self.depth = DepthEstimator(config.depth, device=device) if config.depth else None
        self.normals = NormalEstimator(config.normals, device=device) if config.normals else None

    def fingerprint(self) -> dict[str, Any]:
        """Return the digests of the estimators' files."""
        sources = {"depth": self.config.depth, "normals": self.config.normals}
        return {name: estimator_fingerprint(source) for name, source in sources.items() if source}

    def maps(self, views: ReferenceViews) -> dict[str, Tensor]:
        """See `MapEstimator.maps`; views are composited over grey. Maps of held-out views are 0.

        Raises:
            InputError: the estimated depth of a view is flat or not finite on the object.
        """
        used = views.training()
        images, size = used.over(GREY), used.images.shape[1:3]
        found: dict[str, Tensor] = {}
        if self.depth is not None:
            values = resize_smooth(self.depth(images).cpu(), *size)
            for name, value, mask in zip(used.names, values, used.masks, strict=True):
                check_map(f"views.maps.depth: depth of {name}", value, mask)
            found["depths"] = -values if self.depth.meaning == "disparity" else values
        if self.normals is not None:
            seen = resize_smooth(self.normals(images).cpu(), *size)
            world = torch.einsum("vij,vhwj->vhwi", used.cameras.c2w[:, :3, :3], seen)
            found["normals"] = F.normalize(world, dim=-1)
        return {name: _among_all(maps, ~views.held_out) for name, maps in found.items()}


def _among_all(maps: Tensor, is_used: Tensor) -> Tensor:
    """Return maps [V, H, W, C] of all V views: those of the used views, and 0 for the others."""
    every = maps.new_zeros(len(is_used), *maps.shape[1:])
    every[is_used] = maps
    return every
