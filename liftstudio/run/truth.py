"""The true views and surface of an object, brought to a run's world, and how far a mesh is from them.

A capture's world is brought to the run's: z stays up, the input view is turned to the azimuth of the run's picture, and
the longest side of the object becomes 2 HALF_SIDE.
"""

import json
import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.assets import input_path
from liftstudio.core.errors import InputError
from liftstudio.core.logs import warnings_only
from liftstudio.data.cameras import Cameras, moved
from liftstudio.data.images import reduce_image
from liftstudio.data.mesh import Mesh
from liftstudio.data.mesh_io import read_mesh
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.metrics.meshes import mesh_metrics
from liftstudio.run.config import TruthConfig
from liftstudio.views.normalization import HALF_SIDE, object_box
from liftstudio.views.posed_images import PosedImages

PROTOCOL_TOLERANCE = 1e-4  # units; a capture so near to the protocol's world is measured in its own, to the bit

Point = tuple[float, float]


@dataclass(frozen=True)
class Truth:
    """What an object truly is.

    views:           V true views, square, with cameras in the run's world; `input_view` is the one given; or None.
    mesh:            the true surface, longest side 1, at the origin, input view at azimuth 0; or None.
    unit_from_world: [4, 4] float32, from the run's world to that of the mesh.
    """

    views: ReferenceViews | None
    mesh: Mesh | None
    unit_from_world: Tensor


def load_truth(config: TruthConfig, azimuth_deg: float = 0.0, center: Point = (0.5, 0.5)) -> Truth:
    """What the config names, related to a run whose picture has its camera at `azimuth_deg`.

    The run's cameras look at the origin of its world: it is where the ray through `center` of the picture passes the
    middle of the object's box. That box is the mesh's or, where there is none, the silhouettes'; a capture that says by
    `source_rotation_deg` how far its object was turned after it was scaled is measured turned back.

    Args:
        center: what the run's frame has in its middle, in widths and heights of the picture from the upper left.
    Raises:
        InputError: files are missing or faulty, the view is not there, or no box can be found.
    """
    if not config.views:
        return Truth(None, _protocol_mesh(read_mesh(input_path(config.mesh))), unit_from_world(azimuth_deg))
    path = input_path(config.views)
    views, own_mesh = _read_capture(path)
    if len(views) < 2:
        raise InputError(f"truth.views: {path}: expected the input view and others to compare with, got 1 view")
    mesh_file = input_path(config.mesh) if config.mesh else own_mesh
    mesh = None if mesh_file is None else read_mesh(mesh_file)
    views = replace(views, input_view=find_view(views.names, config.view))
    rotation = turn_about_z(source_rotation_deg(path))
    unit_from_data = _unit_from_data(views, mesh, rotation, center)
    world_from_data = torch.linalg.inv(unit_from_world(azimuth_deg).double()) @ unit_from_data
    if mesh is not None and not _is_identity(unit_from_data):
        mesh = moved_mesh(mesh, unit_from_data)
    return Truth(replace(views, cameras=moved(views.cameras, world_from_data)), mesh, unit_from_world(azimuth_deg))


def unit_from_world(azimuth_deg: float = 0.0) -> Tensor:
    """[4, 4] float32 from a run's world to the one where the longest side is 1 and the picture at azimuth 0."""
    scale = torch.diag(torch.tensor([0.5 / HALF_SIDE] * 3 + [1.0], dtype=torch.float64))
    return (scale @ turn_about_z(-azimuth_deg)).float()


def compare_mesh(prediction: Mesh, truth: Truth, *, scale_by_box: bool = False) -> dict[str, float | None]:
    """`mesh_metrics` of a mesh in the run's world, where the longest side of the true one is 1.

    scale_by_box: give the prediction's bounding box the longest side of the true one's first, about its middle.

    Raises:
        InputError: vertices that are not finite, or a true mesh without surface.
    """
    assert truth.mesh is not None
    placed = moved_mesh(prediction, truth.unit_from_world)
    if scale_by_box and len(placed.vertices):
        low, high = placed.vertices.aminmax(dim=0)
        true_low, true_high = truth.mesh.vertices.aminmax(dim=0)
        factor, middle = (true_high - true_low).max() / (high - low).max().clamp_min(1e-9), (low + high) / 2
        placed = Mesh(middle + factor * (placed.vertices - middle), placed.faces)
    return mesh_metrics(placed, truth.mesh)


def find_view(names: tuple[str, ...], wanted: str) -> int:
    """The index of the view whose file has that name, with its folder or without; the first for no name.

    Raises:
        InputError: there is none.
    """
    if not wanted:
        return 0
    for index, name in enumerate(names):
        if wanted in (name, Path(name).name):
            return index
    raise InputError(f"view: no view {wanted}; there are {', '.join(Path(name).name for name in names)}")


def source_rotation_deg(capture: Path) -> float:
    """How far the object of a capture was turned clockwise about z after it was scaled; 0 where it does not say.

    Raises:
        InputError: it says something else than a number.
    """
    file = capture / "transforms.json" if capture.is_dir() else capture
    if not file.is_file():  # COLMAP's
        return 0.0
    angle = json.loads(file.read_text(encoding="utf-8-sig")).get("source_rotation_deg", 0.0)
    if isinstance(angle, bool) or not isinstance(angle, int | float) or not math.isfinite(angle):
        raise InputError(f"{file}: source_rotation_deg: expected a finite number, got {angle!r:.60}")
    return float(angle)


def squared(views: ReferenceViews) -> ReferenceViews:
    """The views with empty space around, so that their images are square; nothing but pictures and cameras is kept."""
    height, width = views.images.shape[1:3]
    size = max(height, width)
    left, top = (size - width) // 2, (size - height) // 2
    pad = partial(F.pad, pad=(0, 0, left, size - width - left, top, size - height - top))
    cameras = views.cameras
    cameras = Cameras(cameras.c2w, cameras.fx, cameras.fy, cameras.cx + left, cameras.cy + top, size, size)
    return replace(views, images=pad(views.images), masks=pad(views.masks), cameras=cameras, depths=None, normals=None)


def resized(views: ReferenceViews, size: int) -> ReferenceViews:
    """Square views of `size` pixels, reduced by areas; smaller ones stay as they are."""
    if views.cameras.width <= size:
        return views
    pairs = [reduce_image(image, mask, size, size) for image, mask in zip(views.images, views.masks, strict=True)]
    images, masks = (torch.stack(each) for each in zip(*pairs, strict=True))
    return replace(views, images=images, masks=masks, cameras=views.cameras.resized(size, size))


def turn_about_z(angle_deg: float) -> Tensor:
    """[4, 4] float64 rotation, counter-clockwise from above."""
    angle = math.radians(angle_deg)
    turn = torch.eye(4, dtype=torch.float64)
    turn[0, 0] = turn[1, 1] = math.cos(angle)
    turn[1, 0], turn[0, 1] = math.sin(angle), -math.sin(angle)
    return turn


def moved_mesh(mesh: Mesh, similarity: Tensor) -> Mesh:
    """The mesh taken through a similarity [4, 4]."""
    similarity = similarity.double()
    vertices = mesh.vertices.double() @ similarity[:3, :3].T + similarity[:3, 3]
    return Mesh(vertices.to(mesh.vertices), mesh.faces)


def _read_capture(path: Path) -> tuple[ReferenceViews, Path | None]:
    """Its square views in its own world, and the file of its mesh."""
    source = PosedImages(PosedImages.Config(str(path), normalize="as-given"), device=torch.device("cpu"))
    try:
        with warnings_only():
            return squared(source.load()), source.truth_mesh()
    except InputError as error:
        raise InputError(f"truth.views: {str(error).removeprefix('views.path: ')}") from None


def _unit_from_data(views: ReferenceViews, mesh: Mesh | None, rotation: Tensor, center: Point) -> Tensor:
    """[4, 4] float64 from a capture's world to that of `Truth.mesh`."""
    if mesh is None:
        low, high = object_box(moved(views.cameras, rotation), views.masks)
    else:
        low, high = moved_mesh(Mesh(mesh.vertices.double(), mesh.faces), rotation).vertices.aminmax(dim=0)
    middle = rotation[:3, :3].T @ ((low + high) / 2)
    start, direction = _ray(views.cameras[[views.input_view or 0]], center)
    origin = start + direction * (direction @ (middle - start))
    similarity = torch.eye(4, dtype=torch.float64)
    similarity[:3, 3] = -origin
    x, y, _ = (start - origin).tolist()
    scale = torch.diag(torch.tensor([1.0 / float((high - low).max())] * 3 + [1.0], dtype=torch.float64))
    return scale @ turn_about_z(-math.degrees(math.atan2(y, x))) @ similarity


def _ray(camera: Cameras, center: Point) -> tuple[Tensor, Tensor]:
    """Start and unit direction [3] (float64) of the ray through a place of one picture."""
    x, y = center[0] * camera.width, center[1] * camera.height
    local = torch.tensor([(x - camera.cx.item()) / camera.fx.item(), (camera.cy.item() - y) / camera.fy.item(), -1.0])
    direction = camera.c2w[0, :3, :3].double() @ local.double()
    return camera.centers[0].double(), direction / direction.norm()


def _protocol_mesh(mesh: Mesh) -> Mesh:
    """A mesh without views: its box's middle at the origin, its longest side 1."""
    low, high = mesh.vertices.aminmax(dim=0)
    return Mesh((mesh.vertices - (low + high) / 2) / (high - low).max(), mesh.faces)


def _is_identity(similarity: Tensor) -> bool:
    return bool((similarity - torch.eye(4)).abs().max() < PROTOCOL_TOLERANCE)
