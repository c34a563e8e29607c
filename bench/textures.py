"""Objects with strong patterns, and how near pictures of them come to the truth and to the picture they are made from.

What the benchmarks of HiFi-123's parts share.
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

AZIMUTHS_DEG = (45.0, 120.0, 180.0, 240.0, 315.0)  # of the novel views, from the picture: none of RGSD's fixed cameras
ELEVATION_DEG = 10.0  # of the picture and of the novel views
LOST_DETAIL = 3  # times as few pixels across degraded views
GAINS, OFFSETS = (0.8, 1.2), (-0.1, 0.1)  # of their colour channels, least and most

DIGITS = {"psnr": 2, "ssim": 3, "contextual": 3, "contextual, truth": 3, "similarity": 4}  # measure -> digits
CHANGES = ("psnr", "ssim", "contextual")  # measures that are also shown as differences from the baseline

Rows = dict[str, dict[str, float]]  # way -> measure -> value


def textured(number: int) -> TexturedObject:
    """The number-th unseen object with strong patterns, its picture's azimuth 0; toys and composites in turns."""
    kind, index = KINDS[number % len(KINDS)], number // len(KINDS)
    return patterned(prompted(kind, index), split(index, kind, "unseen"))


def scene_cameras(distance: float, fov_deg: float, size: int) -> Cameras:
    """The picture's camera, then those of the novel views."""
    azimuths_deg = torch.tensor([0.0, *AZIMUTHS_DEG])
    return orbit_cameras(azimuths_deg, torch.full_like(azimuths_deg, ELEVATION_DEG), distance, fov_deg, size, size)


@dataclass(frozen=True)
class Pictures:
    """images: [V, R, R, 3] sRGB over white. masks: [V, R, R, 1] alpha; both in [0, 1]."""

    images: Tensor
    masks: Tensor

    @classmethod
    def of(cls, seen: ObjectRender) -> tuple["Pictures", "Pictures"]:
        """The picture, and the true novel views, of a render by `scene_cameras`."""
        return cls(seen.rgb[:1], seen.alpha[:1]), cls(seen.rgb[1:], seen.alpha[1:])

    def repeated(self, count: int) -> "Pictures":
        """One picture, several times."""
        return Pictures(self.images.expand(count, -1, -1, -1), self.masks.expand(count, -1, -1, -1))


def degraded(views: Pictures, generator: torch.Generator, *, alike: bool = False) -> Pictures:
    """The views with less detail, and with a gain and an offset on each channel; outlines stay.

    alike: gains and offsets are the same for all views.
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
    """The views of a run, the first of which is the picture."""
    count = len(cameras)
    return ReferenceViews(
        images=straight_from_white(pictures.images, pictures.masks),
        masks=pictures.masks,
        cameras=cameras,
        names=tuple(f"{index:03d}.png" for index in range(count)),
        held_out=torch.zeros(count, dtype=torch.bool),
        input_view=0,
    )


class Judge:
    """Compares novel views with the truth and with the picture.

    Args:
        vgg: weights of LPIPS for VGG-16, by which contextual distances are; None: patches of pixels.
        clip: folder of a CLIP checkpoint; None: a tiny encoder.
    """

    def __init__(self, vgg: Path | None, clip: Path | None) -> None:
        self.features, self.encoder = load_features(vgg), load_encoder(clip)

    @property
    def names(self) -> dict[str, str]:
        """What measures what."""
        return {"contextual": self.features.name, "similarity": self.encoder.name}

    @torch.no_grad()
    def compare(self, found: Pictures, truth: Pictures, picture: Pictures) -> dict[str, float]:
        """The measures of DIGITS, over views of one object.

        psnr: of the pixels that are the object's in both. ssim: in the box about the object in either. contextual: the
        distance from the picture, that is, how little of it is found in a view; of the objects alone. contextual,
        truth: the same, from the true view. similarity: the cosine of embeddings of a view and the picture.
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
    """Mean and standard error over the objects, and of the differences from the baseline, in Markdown.

    others: measures beside those of DIGITS -> digits.
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
    """By how much a way differs from the baseline, of each object."""
    return [row[way][measure] - row[baseline][measure] for row in rows]


def summary(rows: list[Rows], baseline: str) -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
    """Way -> measure -> "value" and "change" (from the baseline, where that has it), each (mean, standard error)."""
    found: dict[str, dict[str, dict[str, tuple[float, float]]]] = {}
    for way, measures in rows[0].items():
        found[way] = {name: {"value": mean_and_error([row[way][name] for row in rows])} for name in measures}
        for name in measures.keys() & rows[0][baseline].keys():
            found[way][name]["change"] = mean_and_error(changes_of(rows, way, baseline, name))
    return found
