"""Training samples from the user's own renders."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.assets import input_path
from liftstudio.core.errors import InputError
from liftstudio.core.logs import WorkProgress, log, warnings_only
from liftstudio.data.cameras import Cameras, turned
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.training.data import DataConfig, Sample, SampleSource
from liftstudio.training.rigs import Rig, measured_count
from liftstudio.views.posed_images import PosedImages, is_capture

UNSEEN_SHARE = 0.1  # of the captures (the last by name), held out for evaluation


@dataclass(frozen=True)
class PosedObject:
    """V views of one object in the world frame of a run, stored compactly.

    rgba: [V, R, R, 4] uint8, rgb composited over white, and alpha. cameras: V cameras. depths: [V, R, R, 1] up to scale
    and shift, or None.
    """

    rgba: Tensor
    cameras: Cameras
    depths: Tensor | None

    def seen_from(self, order: Tensor) -> Sample:
        """Return a sample of the views `order` [1 + V]; the first is the input view, rotated to azimuth 0."""
        rgba = self.rgba[order].float() / 255
        chosen = self.cameras[order]
        cameras = turned(chosen, -float(chosen.azimuth_deg[0]))
        depths = None if self.depths is None else self.depths[order[1:]]
        return Sample(Rig(cameras[:1], cameras[1:], 0.0), rgba[0], rgba[1:], depths, None, None)


class Captures(SampleSource):
    """The user's own objects; a sample is an input view and further views of one capture, drawn at random."""

    def __init__(self, config: DataConfig, least_views: int) -> None:
        """Read all images into memory.

        least_views: how many views each capture must have.

        Raises:
            InputError: there are no captures, one is faulty or has too few views, or images are below `resolution`.
        """
        folders = find_captures(input_path(config.captures))
        log.info("captures: reading %d from %s", len(folders), config.captures)
        self.views = measured_count(config.rig)
        self.objects: list[PosedObject] = []
        with warnings_only(), WorkProgress("captures") as progress:
            for folder in folders:
                progress(folder.name, len(self.objects) / len(folders))
                self.objects.append(read_object(folder, config, least_views))
        if len({item.depths is None for item in self.objects}) > 1:
            raise InputError("data.captures: some captures have depth maps and some have none")
        self.measured = max(1, round(UNSEEN_SHARE * len(folders))) if len(folders) > 1 else 0
        views = sum(len(item.cameras) for item in self.objects)
        log.info("captures: %d views of %d objects; %d objects are held out", views, len(folders), self.measured)

    def training(self, number: int, views: int, generator: torch.Generator) -> Sample:
        """See `SampleSource.training`."""
        chosen = int(torch.randint(len(self.objects) - self.measured, (), generator=generator))
        return _draw(self.objects[chosen], views, generator)

    def unseen(self, number: int) -> Sample:
        """See `SampleSource.unseen`; if there is only one capture, its object is trained on as well."""
        chosen = self.objects[-1 - number % max(1, self.measured)]
        return _draw(chosen, min(self.views, len(chosen.cameras) - 1), torch.Generator().manual_seed(number))


def find_captures(folder: Path) -> list[Path]:
    """Return the folder itself if it is a capture, else the captures among its sub-folders, sorted by name.

    Raises:
        InputError: there is no capture.
    """
    if not folder.is_dir():
        raise InputError(f"data.captures: {folder}: {'expected a folder' if folder.exists() else 'no such folder'}")
    found = [folder] if is_capture(folder) else [path for path in sorted(folder.iterdir()) if is_capture(path)]
    if not found:
        raise InputError(f"data.captures: {folder}: found no transforms.json or COLMAP model in it or its sub-folders")
    return found


def read_object(folder: Path, config: DataConfig, least_views: int) -> PosedObject:
    """Read one capture: the object is centred and scaled as in a run, the images are downsampled and padded to squares.

    Raises:
        InputError: the capture is faulty (see `PosedImages.load`), has too few views, or images below `resolution`.
    """
    options = PosedImages.Config(str(folder), max_size=config.resolution, up=config.captures_up)
    try:
        views = PosedImages(options, device=torch.device("cpu")).load().training()
    except InputError as error:
        raise InputError(f"data.captures: {folder}: {error}") from None
    if len(views) < least_views:
        expected = f"expected at least {least_views}, for an input view and the views that data.rig asks for"
        raise InputError(f"data.captures: {folder}: {len(views)} views to train on; {expected}")
    height, width = views.images.shape[1:3]
    if max(height, width) < config.resolution:
        expected = f"expected at least {config.resolution} along the longer side (data.resolution)"
        raise InputError(f"data.captures: {folder}: images of {width}x{height} pixels; {expected}")
    return _square(views, config.resolution)


def _square(views: ReferenceViews, size: int) -> PosedObject:
    """Pad views whose longer side is `size` to squares of that size."""
    height, width = views.images.shape[1:3]
    left, top = (size - width) // 2, (size - height) // 2
    sides = (0, 0, left, size - width - left, top, size - height - top)
    rgba = torch.cat([F.pad(views.over(1.0), sides, value=1.0), F.pad(views.masks, sides)], dim=-1)
    cameras = views.cameras
    cameras = Cameras(cameras.c2w, cameras.fx, cameras.fy, cameras.cx + left, cameras.cy + top, size, size)
    depths = None if views.depths is None else F.pad(views.depths, sides)
    return PosedObject((255 * rgba).round().byte(), cameras, depths)


def _draw(item: PosedObject, views: int, generator: torch.Generator) -> Sample:
    return item.seen_from(torch.randperm(len(item.cameras), generator=generator)[: views + 1])
