"""Photographs or renderings on disk, with known cameras."""

import logging
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.assets import input_path
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import NonNegativeInt, Range
from liftstudio.core.registry import register
from liftstudio.data.cameras import Cameras, moved
from liftstudio.data.images import image_size, load_image, load_values, reduce_image, resize_area
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.views.base import ViewSource
from liftstudio.views.colmap import find_models, read_colmap
from liftstudio.views.frames import Capture, Frame
from liftstudio.views.normalization import centering, check_near_origin, object_similarity, upright_rotation
from liftstudio.views.silhouettes import (
    FOREGROUND,
    SOLID,
    SPECK,
    covers_border,
    cut_out_before,
    is_card,
    main_pieces,
    mask_of_levels,
)
from liftstudio.views.transforms import read_splits, read_transforms

Flaw = Literal["opaque", "inverted", "faint", "none"]

log = logging.getLogger("liftstudio")

MAX_TOTAL_PIXELS = 512 * 1024 * 1024  # in all views together: 8 GB as float32
UNIT_TOLERANCE = 0.1  # by which half of the normals in a file of floats may differ from length 1
ASPECT_TOLERANCE = 0.01  # relative; downscaling rounds the image size, so the aspect is not exactly the camera's


@register("posed-images")
class PosedImages(ViewSource):
    """Images with known cameras: transforms.json (nerfstudio, NeRF-synthetic) or a COLMAP model."""

    @dataclass
    class Config:
        path: str  # a folder with transforms.json, transforms_train.json or a COLMAP model, or a .json file
        held_out: list[int] = field(default_factory=list)  # views for evaluation only, by index from 0 in file order
        max_size: NonNegativeInt = 0  # pixels along the longer side; larger images are downscaled; 0: no limit
        background: Literal["none", "white", "black"] = "none"  # colour behind the object, for images without a mask
        background_threshold: Annotated[float, Range(above=0, below=1)] = 0.05  # largest channel difference from it
        normalize: Literal["auto", "as-given"] = "auto"  # auto: centre and scale by cameras and silhouettes
        up: Literal["z", "cameras"] = "z"  # the data's up direction: its z axis, or the cameras' mean up (for COLMAP)
        scale: Annotated[float, Range(above=0)] = 1.0  # additional factor on world lengths, after normalize
        offset: tuple[float, float, float] = (0.0, 0.0, 0.0)  # additional shift in world units, after scale
        depth_unit: Annotated[float, Range(above=0)] = 1.0  # of stored depths in the data's unit, as 0.001 for mm in m
        normal_space: Literal["camera", "world"] = "camera"  # axes of normal maps: OpenGL camera, or the data's world
        mesh: str = ""  # ground-truth mesh to evaluate against; empty: the key `mesh` of transforms.json, if any

    def __init__(self, config: Config, *, device: torch.device) -> None:
        self.config = config

    def check(self) -> None:
        """See `ViewSource.check`: the cameras and the files that belong to them."""
        _ = self._capture
        self.truth_mesh()

    def load(self) -> ReferenceViews:
        """Return the views, downscaled to `max_size`, moved and scaled as the options say.

        Raises:
            InputError: as `read_capture`; or images, masks or maps that are invalid or empty, or a map that has not its
                image's size.
        """
        return self._loaded[0]

    def truth_mesh(self) -> Path | None:
        """Return the option `mesh`, else the mesh that the capture names, if any.

        Raises:
            InputError: the file does not exist.
        """
        if not self.config.mesh:
            return self._capture.mesh
        path = input_path(self.config.mesh)
        if not path.is_file():
            raise InputError(f"views.mesh: no such file: {path}")
        return path

    def data_from_world(self) -> Tensor:
        """Return the inverse of what `normalize`, `up`, `scale` and `offset` did, [4, 4] float64."""
        return torch.linalg.inv(self._loaded[1])

    @cached_property
    def _capture(self) -> Capture:
        capture = read_capture(input_path(self.config.path))
        _check_distinct(capture.frames)
        return replace(capture, frames=_hold_out(capture.frames, self.config.held_out))

    @cached_property
    def _loaded(self) -> tuple[ReferenceViews, Tensor]:
        """The views, and the [4, 4] float64 similarity from the data's world to theirs."""
        self.truth_mesh()  # reports a wrong path before the images are read
        frames = self._capture.frames
        pictures = _load_pictures(frames, self.config)
        windows = _windows(pictures)
        is_padded = len(windows.unique(dim=0)) > 1
        if is_padded:
            log.info("photographs of several sizes: padded to %dx%d pixels", *windows[:, 2:].amax(0).tolist())
        data_cameras = _cameras(frames, windows)
        masks = _stacked([picture.mask for picture in pictures], windows)
        similarity = self._world_from_data(data_cameras, masks, windows)
        cameras = moved(data_cameras, similarity)
        views = ReferenceViews(
            images=_stacked([picture.rgb for picture in pictures], windows),
            masks=masks,
            cameras=cameras,
            names=tuple(frame.name for frame in frames),
            held_out=torch.tensor([frame.held_out for frame in frames]),
            depths=_stack_maps([picture.depth for picture in pictures], frames, windows, "depth"),
            normals=_world_normals(pictures, frames, windows, cameras, similarity, self.config.normal_space),
            windows=windows if is_padded else None,
        )
        return views, similarity

    def _world_from_data(self, cameras: Cameras, masks: Tensor, windows: Tensor) -> Tensor:
        config = self.config
        similarity = torch.eye(4, dtype=torch.float64)
        if config.up == "cameras":
            similarity = upright_rotation(cameras.c2w)
        if config.normalize == "auto":
            similarity = similarity @ centering(cameras.c2w)  # first, since `moved` rounds to float32
            similarity = object_similarity(moved(cameras, similarity), masks, windows) @ similarity
        manual = torch.diag(torch.tensor([config.scale, config.scale, config.scale, 1.0], dtype=torch.float64))
        manual[:3, 3] = torch.tensor(config.offset)
        similarity = manual @ similarity
        if config.normalize == "as-given":
            check_near_origin(similarity @ cameras.c2w)
        digits = 5 + int(math.log10(max(1.0, float(similarity[:3, 3].abs().max()))))  # a far world needs more
        rows = ", ".join(f"[{' '.join(f'{value:.{digits}g}' for value in row)}]" for row in similarity[:3].tolist())
        log.info("world from data: x' = A (x, 1) with A = %s", rows)
        return similarity


def read_capture(path: Path) -> Capture:
    """Read the capture at `path`, a .json file or a folder, in any supported format.

    Raises:
        InputError: nothing exists there, its format is unknown, or it is invalid.
    """
    if path.is_file() and path.suffix == ".json":
        return read_transforms(path)
    if not path.is_dir():
        problem = "expected a folder or a transforms.json" if path.exists() else "no such file or folder"
        raise InputError(f"views.path: {path}: {problem}")
    if (path / "transforms.json").is_file():
        return read_transforms(path / "transforms.json")
    if (path / "transforms_train.json").is_file():
        return read_splits(path)
    if find_models(path):
        return read_colmap(path)
    raise InputError(f"views.path: {path}: no transforms.json, transforms_train.json or COLMAP model there")


def is_capture(folder: Path) -> bool:
    """Return whether a folder holds what `read_capture` reads."""
    names = ("transforms.json", "transforms_train.json")
    return any((folder / name).is_file() for name in names) or bool(find_models(folder))


def _check_distinct(frames: list[Frame]) -> None:
    """Check that no picture was found by two different names, or has two different poses."""
    firsts: dict[Path, Frame] = {}
    for frame in frames:
        first = firsts.setdefault(frame.image, frame)
        if Path(first.name) != Path(frame.name):
            names = f"{first.name} as well as for {frame.name}"
            raise InputError(f"{frame.image}: the only picture for {names}; correct a name")
        if not torch.allclose(first.c2w, frame.c2w):
            raise InputError(f"{frame.image}: the capture has it twice, with different poses; remove the wrong one")


def _hold_out(frames: list[Frame], indices: list[int]) -> list[Frame]:
    for index in indices:
        if not 0 <= index < len(frames):
            raise InputError(f"views.held_out: no view {index}; there are {len(frames)}, from 0; [] holds out none")
    held = [replace(frame, held_out=frame.held_out or i in indices) for i, frame in enumerate(frames)]
    if all(frame.held_out for frame in held):
        raise InputError(f"views.held_out: all {len(frames)} views are held out; none is left to train on")
    return held


@dataclass(frozen=True)
class _Picture:
    """One frame's pixels: straight rgb [H, W, 3], mask and depth [H, W, 1], normal [H, W, 3]; maps as in the files.

    flaw: what is suspicious about the mask.
    """

    rgb: Tensor
    mask: Tensor
    depth: Tensor | None
    normal: Tensor | None
    flaw: Flaw


def _load_pictures(frames: list[Frame], config: PosedImages.Config) -> list[_Picture]:
    pictures: list[_Picture] = []
    height = width = 0
    for frame in frames:
        pictures.append(_load_picture(frame, config))
        height, width = (max(pair) for pair in zip((height, width), pictures[-1].rgb.shape[:2], strict=True))
        if height * width * len(frames) > MAX_TOTAL_PIXELS:
            raise InputError(f"{len(frames)} images of {width}x{height} pixels are too many; set views.max_size")
    _check_masks(frames, [picture.flaw for picture in pictures])
    return pictures


def _windows(pictures: list[_Picture]) -> Tensor:
    """Return where each picture is when all are padded to one size, in the middle: `ReferenceViews.windows`."""
    sizes = torch.tensor([[picture.rgb.shape[1], picture.rgb.shape[0]] for picture in pictures])
    corners = (sizes.amax(0) - sizes) // 2
    return torch.cat([corners, corners + sizes], dim=1)


def _load_picture(frame: Frame, config: PosedImages.Config) -> _Picture:
    rgb, alpha = load_image(frame.image, upright=_is_turned(frame.image, frame))
    height, width = rgb.shape[:2]
    _check_aspect(frame, height, width)
    rgb, mask = _cut_out(frame, rgb, alpha, config)
    if not mask.any():
        raise InputError(f"{frame.mask or frame.image}: no foreground; the object's mask is empty")
    mask = main_pieces(mask, SPECK)[0]
    depth, normal = (
        None if path is None else _same_size(path, load(path, frame), frame, rgb)
        for path, load in ((frame.depth, _load_depth), (frame.normal, _load_normal))
    )
    if depth is not None and frame.depth is not None:
        depth = _zero_beside(frame.depth, depth, mask) * config.depth_unit
    longest, flaw = max(height, width), _flaw(mask)
    if not 0 < config.max_size < longest:
        return _Picture(rgb, mask, depth, normal, flaw)
    size = [max(1, round(side * config.max_size / longest)) for side in (height, width)]
    maps = [None if image is None else resize_area(image, *size) for image in (depth, normal)]
    return _Picture(*reduce_image(rgb, mask, *size), maps[0], maps[1], flaw)


def _is_turned(path: Path, frame: Frame) -> bool:
    """Return whether a picture or map has the camera's aspect only after it is turned by its EXIF orientation.

    Most tools calibrate cameras on the stored pixels; some turn the pictures first, and state the size of those.
    """
    if path.suffix.lower() == ".npy":
        return False
    as_stored, upright = (_has_aspect(frame, *image_size(path, upright=turn)) for turn in (False, True))
    return upright and not as_stored


def _has_aspect(frame: Frame, height: int, width: int) -> bool:
    return abs((width / frame.width) / (height / frame.height) - 1) <= ASPECT_TOLERANCE


def _check_aspect(frame: Frame, height: int, width: int) -> None:
    if not _has_aspect(frame, height, width):
        sizes = f"{width}x{height} pixels, but its camera has {frame.width}x{frame.height}"
        raise InputError(f"{frame.image}: {sizes}")


def _cut_out(frame: Frame, rgb: Tensor, alpha: Tensor | None, config: PosedImages.Config) -> tuple[Tensor, Tensor]:
    """Return a picture's straight colour and the mask of its object."""
    if frame.mask is not None:
        return rgb, _same_size(frame.mask, _load_mask(frame.mask, frame), frame, rgb)
    if config.background != "none" and (alpha is None or is_card(alpha)):
        color = torch.full((3,), 1.0 if config.background == "white" else 0.0)
        return cut_out_before(rgb, color, config.background_threshold)
    if alpha is None:
        raise InputError(_no_mask(frame, "has no alpha and no mask"))
    return rgb, alpha


def _no_mask(frame: Frame, problem: str) -> str:
    ways = "use RGBA images, or masks (`mask_path` per frame, or a folder `masks`), or set views.background=white|black"
    return f"{frame.mask or frame.image}: {problem}; {ways}"


def _flaw(mask: Tensor) -> Flaw:
    if is_card(mask):
        return "opaque"
    if covers_border(mask):
        return "inverted"
    object_alpha = mask[mask > FOREGROUND]
    return "faint" if len(object_alpha) and object_alpha.median() < SOLID else "none"


def _check_masks(frames: list[Frame], flaws: list[Flaw]) -> None:
    """Raise an InputError if most masks are inverted or all are opaque; warn of a few such and of faint ones."""
    if all(flaw == "opaque" for flaw in flaws):
        raise InputError(_no_mask(frames[0], "is opaque everywhere, like all the others"))
    inverted = [str(frame.mask or frame.image) for frame, flaw in zip(frames, flaws, strict=True) if flaw == "inverted"]
    problem = f"masks cover the border in {len(inverted)} of {len(flaws)} views: inverted?"
    if 2 * len(inverted) > len(flaws):
        raise InputError(f"{inverted[0]}: {problem} The object must be white in masks, opaque in alpha")
    if inverted:
        log.warning("%s (%s)", problem, ", ".join(inverted[:3]) + (", ..." if len(inverted) > 3 else ""))
    if opaque := flaws.count("opaque"):
        log.warning("masks are opaque everywhere in %d of %d views; the object fills them", opaque, len(flaws))
    if faint := flaws.count("faint"):
        log.warning("the object is partly transparent in %d of %d views; alpha is its opacity", faint, len(flaws))


def _load_mask(path: Path, frame: Frame) -> Tensor:
    values = load_values(path, upright=_is_turned(path, frame))
    has_alpha = values.shape[-1] in (2, 4) and values.dtype == np.uint8
    colors = values[..., :-1] if has_alpha else values
    levels = colors[..., 0] if colors.shape[-1] == 1 else colors.mean(-1)
    if has_alpha:
        alpha = values[..., -1]
        is_cut_out = np.ptp(alpha) > 0 and (colors != colors[..., :1])[alpha > 0].any()  # a picture of the object
        levels = alpha if is_cut_out or np.ptp(levels) == 0 else levels * (alpha / 255)
    mask = mask_of_levels(levels)
    if mask is None:
        numbers = ", ".join(f"{value:g}" for value in np.unique(levels)[:5])
        raise InputError(f"{path}: a map of several classes ({numbers}); expected 0, and one value for the object")
    return mask


def _zero_beside(path: Path, depth: Tensor, mask: Tensor) -> Tensor:
    """Return a depth map with 0 where it is infinite or NaN, as renderers and sensors write it beside the object."""
    finite = torch.isfinite(depth)
    if not finite[mask > FOREGROUND].all():
        raise InputError(f"{path}: expected finite depths on the object, found NaN or infinite ones")
    return depth.where(finite, 0.0)


def _load_depth(path: Path, frame: Frame) -> Tensor:
    values = load_values(path, upright=_is_turned(path, frame), finite=False)
    if values.shape[-1] == 2:
        raise InputError(f"{path}: expected depths of shape [H, W], got {list(values.shape)}")
    colors = values[..., :3]
    if not np.array_equal(colors, colors[..., :1].repeat(colors.shape[-1], -1), equal_nan=True):
        raise InputError(f"{path}: a coloured picture; expected depths, in one channel")
    return torch.from_numpy(colors[..., :1].astype(np.float32))


def _load_normal(path: Path, frame: Frame) -> Tensor:
    """Return normals [H, W, 3] in [-1, 1]: whole numbers from 0 for -1 to the largest for 1, floats as they are.

    Floats must be unit vectors, or 0 where there is no surface; colours of normals are not.
    """
    values = load_values(path, upright=_is_turned(path, frame))[..., :3]
    if values.shape[-1] != 3:
        raise InputError(f"{path}: expected normals of shape [H, W, 3], got {list(values.shape)}")
    if values.dtype.kind == "f":
        lengths = np.linalg.norm(values[values.any(-1)], axis=-1)
        if lengths.size and np.median(np.abs(lengths - 1)) > UNIT_TOLERANCE:
            low, high = lengths.min(), lengths.max()
            raise InputError(f"{path}: vectors of length {low:.3g} to {high:.3g}; expected normals, of length 1")
        return torch.from_numpy(values.astype(np.float32))
    return torch.from_numpy(values.astype(np.float32) / np.iinfo(values.dtype).max * 2 - 1)


def _same_size(path: Path, image: Tensor, frame: Frame, rgb: Tensor) -> Tensor:
    (height, width), (wanted_height, wanted_width) = image.shape[:2], rgb.shape[:2]
    if (height, width) != (wanted_height, wanted_width):
        sizes = f"{width}x{height} pixels, but {frame.image} has {wanted_width}x{wanted_height}"
        raise InputError(f"{path}: {sizes}")
    return image


def _cameras(frames: list[Frame], windows: Tensor) -> Cameras:
    """Return the cameras in the data's world, with float64 poses, for the size that the images have now."""
    width, height = windows[:, 2:].amax(0).tolist()
    left, top = windows[:, :2].unbind(-1)
    sizes = (windows[:, 2:] - windows[:, :2]).tolist()
    scale_x = torch.tensor([size[0] / frame.width for size, frame in zip(sizes, frames, strict=True)])
    scale_y = torch.tensor([size[1] / frame.height for size, frame in zip(sizes, frames, strict=True)])
    fx, fy, cx, cy = (torch.tensor([getattr(frame, name) for frame in frames]) for name in ("fx", "fy", "cx", "cy"))
    c2w = torch.stack([frame.c2w for frame in frames])
    return Cameras(c2w, fx * scale_x, fy * scale_y, cx * scale_x + left, cy * scale_y + top, height, width)


def _stacked(images: list[Tensor], windows: Tensor) -> Tensor:
    """Return images [H, W, C] of any sizes as one batch, each in its window, with zeros around."""
    width, height = windows[:, 2:].amax(0).tolist()
    batch = images[0].new_zeros(len(images), height, width, images[0].shape[-1])
    for padded, image, (left, top, right, bottom) in zip(batch, images, windows.tolist(), strict=True):
        padded[top:bottom, left:right] = image
    return batch


def _stack_maps(maps: list[Tensor | None], frames: list[Frame], windows: Tensor, what: str) -> Tensor | None:
    given = [image for image in maps if image is not None]
    if given and len(given) < len(maps):
        missing = frames[next(i for i, image in enumerate(maps) if image is None)]
        raise InputError(f"{missing.image}: no {what} map, but other frames have one")
    return _stacked(given, windows) if given else None


def _world_normals(
    pictures: list[_Picture],
    frames: list[Frame],
    windows: Tensor,
    cameras: Cameras,
    similarity: Tensor,
    space: str,
) -> Tensor | None:
    normals = _stack_maps([picture.normal for picture in pictures], frames, windows, "normal")
    if normals is None:
        return None
    if space == "camera":
        rotation = cameras.c2w[:, :3, :3]
    else:
        rotation = (similarity[:3, :3] / similarity[:3, 0].norm()).float().expand(len(frames), 3, 3)
    return F.normalize(torch.einsum("vij,vhwj->vhwi", rotation, normals), dim=-1)
