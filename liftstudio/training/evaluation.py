"""Evaluation of a prior in training on unseen objects: metrics and a contact sheet."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from liftstudio.data.images import grid
from liftstudio.metrics.images import psnr
from liftstudio.metrics.novel_views import silhouette_iou
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.samplers import euler
from liftstudio.training.data import Sample
from liftstudio.training.task import Evaluation

SHEET_OBJECTS = 4  # number of objects that are sampled from noise

Figures = dict[str, float]


@dataclass(frozen=True)
class Protocol:
    """How a prior is evaluated.

    levels: noise levels of the single-step estimates. sigmas: noise levels of the sampler.
    guidance: takes the number of views and returns the sampler's guidance scales.
    last_is_input: whether the last view is the input view, which is then excluded from the metrics.
    """

    levels: tuple[float, ...]
    sigmas: Tensor
    guidance: Callable[[int], Tensor] | None = None
    last_is_input: bool = False

    def counted(self, views: Tensor) -> Tensor:
        """Return those of the images or masks [V, ...] that the metrics include."""
        return views[:-1] if self.last_is_input else views


def evaluate(prior: Prior, samples: list[Sample], protocol: Protocol, device: torch.device) -> Evaluation:
    """Return metrics and a contact sheet of a prior on unseen samples.

    The metrics are mean PSNR of single-step estimates from noised ground truth ("psnr_5" at noise level 5) and of
    samples from noise ("psnr_sampled"), and silhouette IoU ("iou_5", "iou_sampled") if the prior predicts masks. The
    sheet shows the input view, a sample, a single-step estimate from pure noise, and the ground truth.
    """
    metrics = [_measured_levels(prior, sample, number, protocol, device) for number, sample in enumerate(samples)]
    rows: list[list[Tensor]] = []
    for number, sample in enumerate(samples[:SHEET_OBJECTS]):
        drawn, more = _drawn(prior, sample, number, protocol, device)
        metrics.append(drawn)
        rows += more
    names = {name: None for one in metrics for name in one}  # unique, in order
    means = {name: _mean([one[name] for one in metrics if name in one]) for name in names}
    return Evaluation(means, grid(rows))


def _input(sample: Sample) -> PosedImage:
    return PosedImage(sample.input_image[..., :3], sample.input_image[..., 3:], sample.rig.input_camera)


def _noise(prior: Prior, sample: Sample, number: int, device: torch.device) -> Tensor:
    """Return noise [V, C, h, w], the same in every evaluation."""
    channels, height, width = prior.latent_shape
    generator = torch.Generator().manual_seed(number)
    noise = torch.randn(len(sample.images), height, width, channels, generator=generator)
    return noise.permute(0, 3, 1, 2).to(device)


@torch.no_grad()
def _measured_levels(prior: Prior, sample: Sample, number: int, protocol: Protocol, device: torch.device) -> Figures:
    """Return PSNR, and silhouette IoU if the prior predicts masks, of the single-step estimate at each noise level."""
    condition, noise = prior.condition(_input(sample)), _noise(prior, sample, number, device)
    truth = sample.images.to(device)
    latents = prior.encode(truth[..., :3], truth[..., 3:])
    metrics = {}
    for level in protocol.levels:
        images, masks = prior.decode(
            prior.denoise(NoisyViews(latents + level * noise, level, condition, sample.rig.views))
        )
        metrics[f"psnr_{level:g}"] = _psnr(images, sample, protocol)
        if masks is not None:
            metrics[f"iou_{level:g}"] = _iou(masks, sample, protocol)
    return metrics


def _drawn(
    prior: Prior, sample: Sample, number: int, protocol: Protocol, device: torch.device
) -> tuple[Figures, list[list[Tensor]]]:
    """Return metrics of a sample from noise, and sheet rows: the sample, a single-step estimate, the ground truth."""
    condition, noise = prior.condition(_input(sample)), _noise(prior, sample, number, device)
    cameras, highest = sample.rig.views, max(protocol.levels)
    scale = None if protocol.guidance is None else protocol.guidance(len(cameras)).to(device)
    drawn = euler(
        lambda z, sigma: prior.denoise(NoisyViews(z, sigma, condition, cameras, scale)), noise, protocol.sigmas
    )
    (images, masks), once = prior.decode(drawn), prior.denoise(NoisyViews(highest * noise, highest, condition, cameras))
    metrics = {"psnr_sampled": _psnr(images, sample, protocol)}
    if masks is not None:
        metrics["iou_sampled"] = _iou(masks, sample, protocol)
    image = sample.input_image[..., :3]
    starts = (image, torch.ones_like(image), torch.ones_like(image))
    shown = (images.cpu(), prior.decode(once)[0].cpu(), sample.images[..., :3])
    return metrics, [[start, *row] for start, row in zip(starts, shown, strict=True)]


def _psnr(images: Tensor, sample: Sample, protocol: Protocol) -> float:
    return float(psnr(protocol.counted(images.cpu()), protocol.counted(sample.images[..., :3])).mean())


def _iou(masks: Tensor, sample: Sample, protocol: Protocol) -> float:
    return float(silhouette_iou(*(protocol.counted(views) for views in (masks.cpu(), sample.images[..., 3:]))).mean())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
