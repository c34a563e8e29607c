"""Objects with high-contrast patterns, and the comparison of their views with the ground truth and the input image.

Shared by the benchmarks of HiFi-123's components.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich import box
from rich.table import Table
from torch import Tensor

from bench.unseen import mean_and_error, prompted, with_error
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.images import resize_smooth, straight_from_white
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.metrics.contextual import contextual_distance, load_features
from liftstudio.metrics.embeddings import load_encoder
from liftstudio.metrics.images import psnr, ssim
from liftstudio.synthetic import ObjectRender, TexturedObject, patterned, split
from liftstudio.training.data import KINDS
from liftstudio.views.silhouettes import bounding_box

AZIMUTHS_DEG = (45.0, 120.0, 180.0, 240.0, 315.0)  # of novel views, from the input; no fixed cameras of RGSD
ELEVATION_DEG = 10.0  # of the input and the novel views
LOST_DETAIL = 3  # downsampling factor of degraded views
GAINS, OFFSETS = (0.8, 1.2), (-0.1, 0.1)  # ranges of the changes to their colour channels

DIGITS = {"psnr": 2, "ssim": 3, "contextual": 3, "contextual, truth": 3, "similarity": 4}  # measure -> digits
CHANGES = ("psnr", "ssim", "contextual")  # measures also shown as change from the baseline

Rows = dict[str, dict[str, float]]  # variant -> measure -> value


def textured(number: int) -> TexturedObject:
    """Return unseen object `number` with high-contrast patterns, input at azimuth 0; toys and composites alternate."""
    kind, index = KINDS[number % len(KINDS)], number // len(KINDS)
    return patterned(prompted(kind, index), split(index, kind, "unseen"))


def scene_cameras(distance: float, fov_deg: float, size: int) -> Cameras:
    """Return the input camera, followed by those of the novel views."""
    azimuths_deg = torch.tensor([0.0, *AZIMUTHS_DEG])
    return orbit_cameras(azimuths_deg, torch.full_like(azimuths_deg, ELEVATION_DEG), distance, fov_deg, size, size)


@dataclass(frozen=True)
class Pictures:
    """images: [V, R, R, 3] sRGB over white. masks: [V, R, R, 1] alpha; both in [0, 1]."""

    images: Tensor
    masks: Tensor

    @classmethod
    def of(cls, seen: ObjectRender) -> tuple["Pictures", "Pictures"]:
        """Split a render by `scene_cameras` into the input image and the true novel views."""
        return cls(seen.rgb[:1], seen.alpha[:1]), cls(seen.rgb[1:], seen.alpha[1:])

    def select(self, chosen: list[int]) -> "Pictures":
        """Return the chosen images, in that order."""
        return Pictures(self.images[chosen], self.masks[chosen])

    def repeated(self, count: int) -> "Pictures":
        """Return a single image repeated `count` times."""
        return Pictures(self.images.expand(count, -1, -1, -1), self.masks.expand(count, -1, -1, -1))


def degraded(views: Pictures, generator: torch.Generator, *, alike: bool = False) -> Pictures:
    """Return the views with less detail, and a random gain and offset per channel; outlines are unchanged.

    alike: use the same gains and offsets for all views.
    """
    masks, size = views.masks, views.images.shape[1]
    straight = straight_from_white(views.images, masks)
    premultiplied = torch.cat([straight * masks, masks], dim=-1)
    coarse = resize_smooth(resize_smooth(premultiplied, *(size // LOST_DETAIL,) * 2), size, size)
    colors = coarse[..., :3] / coarse[..., 3:].clamp_min(1e-3)
    draws = torch.rand(2, 1 if alike else len(masks), 1, 1, 3, generator=generator)
    gains, offsets = (low + (high - low) * draw for (low, high), draw in zip((GAINS, OFFSETS), draws, strict=True))
    return Pictures((gains * colors + offsets).clamp(0, 1) * masks + 1 - masks, masks)


def as_views(pictures: Pictures, cameras: Cameras) -> ReferenceViews:
    """Return views of a run, the first of which is the input view."""
    count = len(cameras)
    return ReferenceViews(
        images=straight_from_white(pictures.images, pictures.masks),
        masks=pictures.masks,
        cameras=cameras,
        names=tuple(f"{index:03d}.png" for index in range(count)),
        held_out=torch.zeros(count, dtype=torch.bool),
        input_views=(0,),
    )


class Judge:
    """Compares novel views with the ground truth and the input image.

    Args:
        vgg: LPIPS weights for VGG-16, whose features contextual distances use; None: patches of pixels.
        clip: folder of a CLIP checkpoint; None: a tiny encoder.
    """

    def __init__(self, vgg: Path | None, clip: Path | None) -> None:
        self.features, self.encoder = load_features(vgg), load_encoder(clip)

    @property
    def names(self) -> dict[str, str]:
        """Names of the features behind each measure."""
        return {"contextual": self.features.name, "similarity": self.encoder.name}

    @torch.no_grad()
    def compare(self, found: Pictures, truth: Pictures, picture: Pictures) -> dict[str, float]:
        """Return the measures in DIGITS, averaged over the views of one object.

        psnr: over pixels on the object in both. ssim: in the bounding box of the object in either. contextual:
        contextual distance to the input image, on the objects alone; it is large if little of the input is found in a
        view. contextual, truth: the same, to the true view. similarity: cosine similarity of the embeddings of a view
        and the input image.
        """
        inside = ((found.masks > 0.5) & (truth.masks > 0.5)).expand_as(truth.images)
        picture = picture.repeated(len(found.images))
        distances = [
            contextual_distance(found.images, other.images, self.features, found.masks, other.masks)
            for other in (picture, truth)
        ]
        embedded = [self.encoder.images(each.images) for each in (found, picture)]
        values = {
            "psnr": psnr(found.images[inside][None, None, None], truth.images[inside][None, None, None]),
            "ssim": torch.stack([self._box_ssim(found, truth, view) for view in range(len(found.images))]),
            "contextual": distances[0],
            "contextual, truth": distances[1],
            "similarity": F.cosine_similarity(embedded[0], embedded[1]),
        }
        return {name: value.mean().item() for name, value in values.items()}

    @staticmethod
    def _box_ssim(found: Pictures, truth: Pictures, view: int) -> Tensor:
        frame = bounding_box(torch.maximum(found.masks[view], truth.masks[view]))
        assert frame is not None, "the true views show the object"
        left, top, right, bottom = frame
        crops = [each.images[[view], top:bottom, left:right] for each in (found, truth)]
        return ssim(crops[0], crops[1])


def table_of(rows: list[Rows], title: str, baseline: str, others: dict[str, int] | None = None) -> Table:
    """Return a Markdown table of mean and standard error over the objects, also of the change from the baseline.

    others: additional measures -> digits.
    """
    digits = DIGITS | (others or {})
    table = Table(title, *digits, *(f"{name}, change" for name in CHANGES), box=box.MARKDOWN)
    for way in rows[0]:
        shown = {name: [row[way][name] for row in rows if name in row[way]] for name in digits}
        texts = [with_error(values, digits[name]) if values else "" for name, values in shown.items()]
        changes = {name: changes_of(rows, way, baseline, name) for name in CHANGES if way != baseline}
        table.add_row(way, *texts, *(with_error(values, DIGITS[name]) for name, values in changes.items()))
    return table


def changes_of(rows: list[Rows], way: str, baseline: str, measure: str) -> list[float]:
    """Return the difference of a variant from the baseline, per object."""
    return [row[way][measure] - row[baseline][measure] for row in rows]


def summary(rows: list[Rows], baseline: str) -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
    """Return variant -> measure -> "value", and "change" if the baseline has the measure, each (mean, error)."""
    found: dict[str, dict[str, dict[str, tuple[float, float]]]] = {}
    for way, measures in rows[0].items():
        found[way] = {name: {"value": mean_and_error([row[way][name] for row in rows])} for name in measures}
        for name in measures.keys() & rows[0][baseline].keys():
            found[way][name]["change"] = mean_and_error(changes_of(rows, way, baseline, name))
    return found
