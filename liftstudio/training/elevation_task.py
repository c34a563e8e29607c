"""Training task of the network that estimates a picture's elevation."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from liftstudio.core.files import atomic_path
from liftstudio.core.ranges import NonNegativeFloat, PositiveInt, UnitFloat
from liftstudio.core.registry import register
from liftstudio.core.weights import load_module, open_weights
from liftstudio.data.images import grid
from liftstudio.priors.elevation import NOTE, ElevationNetwork, candidates_deg, estimate, framed
from liftstudio.training.data import DataConfig, Sample
from liftstudio.training.task import Evaluation, PriorTask

SHEET_SIDE = 5  # rows and columns of the sheet of the worst estimates


@register("elevation")
class ElevationTask(PriorTask):
    """Trains a classifier of elevations on images of single objects, each framed by its box with some variation."""

    @dataclass
    class Config:
        pictures: PositiveInt = 4  # images of an object in a step, drawn from its views and its input view
        width_deg: float = 4.0  # standard deviation of the target distribution about the true elevation
        roll_deg: NonNegativeFloat = 5.0  # largest rotation of an image
        zoom: NonNegativeFloat = 0.08  # largest change of its size, as a share
        shift: NonNegativeFloat = 0.04  # largest offset, as a share of half the image
        recolor: UnitFloat = 0.3  # largest change of saturation, brightness and tint

    network: ElevationNetwork

    def __init__(self, config: Config, data: DataConfig, dtype: torch.dtype) -> None:
        self.config, self.network = config, ElevationNetwork()

    def load(self, weights: str) -> None:
        """See `PriorTask.load`."""
        load_module(self.network, open_weights(weights), {}, torch.float32, torch.device("cpu"))
        self.network.requires_grad_(True).train()

    def prepare(self, samples: list[Sample], generator: torch.Generator) -> dict[str, Tensor]:
        """See `PriorTask.prepare`."""
        chosen = [self._chosen(sample, generator) for sample in samples]
        images, elevation_deg = (torch.cat(part) for part in zip(*chosen, strict=True))
        moved = framed(images, self._motions(len(images), generator))
        return {"images": self._recolored(moved, generator), "elevation_deg": elevation_deg}

    def _chosen(self, sample: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw some images of a sample; return their pixels and elevations."""
        images = torch.cat([sample.images, sample.input_image[None]])
        chosen = torch.randperm(len(images), generator=generator)[: self.config.pictures]
        elevation_deg = torch.cat([sample.rig.views.elevation_deg, sample.rig.input_camera.elevation_deg])
        return _pixels(images[chosen]), elevation_deg[chosen]

    def _motions(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw random mirrorings, rotations, sizes and offsets [count, 2, 3] for `framed`."""
        config, draws = self.config, 2 * torch.rand(4, count, generator=generator) - 1
        turn, size = math.radians(config.roll_deg) * draws[0], 1 + config.zoom * draws[1]
        mirror = torch.randint(2, (count,), generator=generator) * 2 - 1
        rows = [[mirror * turn.cos(), -turn.sin()], [mirror * turn.sin(), turn.cos()]]
        linear = size[:, None, None] * torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
        return torch.cat([linear, config.shift * draws[2:].T[:, :, None]], dim=2)

    def _recolored(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images with random saturation, tint and brightness."""
        alpha = 0.5 + 0.5 * images[:, 3:]
        color = 0.5 + 0.5 * images[:, :3] - (1 - alpha)  # premultiplied
        draws = 1 + self.config.recolor * (2 * torch.rand(len(images), 5, 1, 1, generator=generator) - 1)
        saturation, tint, offset = draws.split([1, 3, 1], dim=1)
        color = torch.lerp(color.mean(1, keepdim=True), color, saturation) * tint + (offset - 1) * alpha / 2
        color = torch.minimum(color.clamp_min(0), alpha)
        return 2 * torch.cat([color + 1 - alpha, alpha], dim=1) - 1

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the cross entropy with a normal distribution about the true elevation."""
        away = (candidates_deg().to(batch["elevation_deg"]) - batch["elevation_deg"][:, None]) / self.config.width_deg
        target = (-0.5 * away.square()).softmax(1)
        return {"elevation": F.cross_entropy(self.network(batch["images"]), target)}

    @torch.no_grad()
    def evaluate(self, network: nn.Module, samples: list[Sample]) -> Evaluation:
        """Return errors of the input views, in degrees, and a sheet of the worst estimates."""
        device = next(network.parameters()).device
        images = framed(torch.cat([_pixels(s.input_image[None]) for s in samples]))
        true_deg = torch.cat([s.rig.input_camera.elevation_deg for s in samples])
        found = estimate(network, images.to(device))
        error = (found.elevation_deg - true_deg).abs()
        metrics = {
            "error": error.mean(),
            "median_error": error.median(),
            "expected_error": found.error_deg.mean(),
            "error_of_mean": (true_deg - true_deg.mean()).abs().mean(),
        }
        worst = error.argsort(descending=True)[: SHEET_SIDE**2].tolist()
        cells = [(0.5 + 0.5 * images[i, :3]).clamp(0, 1).permute(1, 2, 0) for i in worst]
        labels = [f"{true_deg[i]:.0f}: {found.elevation_deg[i]:.0f}" for i in worst]
        rows = [slice(start, start + SHEET_SIDE) for start in range(0, len(worst), SHEET_SIDE)]
        sheet = grid([cells[row] for row in rows], [labels[row] for row in rows])
        return Evaluation({name: float(value) for name, value in metrics.items()}, sheet)

    def save(self, network: nn.Module, path: Path) -> None:
        """See `PriorTask.save`."""
        half = {key: value.detach().cpu().half().contiguous() for key, value in network.state_dict().items()}
        with atomic_path(path) as temporary:
            save_file(half, temporary, {"prior": NOTE})


def _pixels(images: Tensor) -> Tensor:
    """Return images [B, R, R, 4] in [0, 1] as the network's pixels [B, 4, R, R]."""
    return 2 * images.permute(0, 3, 1, 2) - 1
