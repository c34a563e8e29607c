"""Ground truth of an object: its true views and surface in a run's world, and the comparison of a mesh with them.

A capture is transformed to the run's world: z stays up, the input view is rotated to the azimuth of the run's picture,
and the object's longest side becomes 2 HALF_SIDE.
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
from liftstudio.views.normalization import HALF_SIDE, centering, object_box
from liftstudio.views.posed_images import PosedImages, read_capture

PROTOCOL_TOLERANCE = 1e-4  # a mesh is left as it is, bit by bit, if its transform is this close to the identity
LEAST_UNIT_SIDE, MOST_UNIT_EXTENT = 0.7, 0.75  # of the box of an object of unit size, however rotated about z

Point = tuple[float, float]


@dataclass(frozen=True)
class Truth:
    """Ground truth of an object.

    views:           V true views, square, with cameras in the run's world; `input_view` is the run's picture; or None.
    mesh:            the true surface: longest side 1, at the origin, input view at azimuth 0; or None.
    unit_from_world: [4, 4] float32, from the run's world to that of the mesh.
    """

    views: ReferenceViews | None
    mesh: Mesh | None
    unit_from_world: Tensor


def load_truth(config: TruthConfig, azimuth_deg: float = 0.0, center: Point = (0.5, 0.5)) -> Truth:
    """Return the ground truth that the config gives, in the world of a run whose picture is taken from `azimuth_deg`.

    The run's cameras look at the origin of its world: the point where the ray through `center` of the picture passes
    closest to the middle of the object's bounding box. The box is that of the mesh or, without a mesh, of the
    silhouettes. If a capture states by `source_rotation_deg` how far its object was rotated after it was scaled, the
    box is measured with that rotation undone.

    Args:
        config: the capture or mesh.
        azimuth_deg: azimuth of the picture's camera in the run's world.
        center: the point of the picture in the middle of the run's frame: x, y from the upper left, as fractions of
            width and height.

    Raises:
        InputError: files are missing or invalid, the view does not exist, or no bounding box can be found.
    """
    if not config.views:
        alone = read_mesh(input_path(config.mesh), torch.float64)
        return Truth(None, moved_mesh(alone, _unit_from_box(alone)).float(), unit_from_world(azimuth_deg))
    path = input_path(config.views)
    views, own_mesh, local_from_data = _read_capture(path)
    if len(views) < 2:
        raise InputError(f"truth.views: {path}: expected the input view and others to compare with, got 1 view")
    mesh_file = input_path(config.mesh) if config.mesh else own_mesh
    mesh = None if mesh_file is None else read_mesh(mesh_file, torch.float64)
    views = replace(views, input_views=(find_view(views.names, config.view),))
    rotation = turn_about_z(source_rotation_deg(path))
    local_mesh = None if mesh is None else moved_mesh(mesh, local_from_data)
    unit_from_local = _unit_from_local(views, local_mesh, rotation, center)
    world_from_local = torch.linalg.inv(unit_from_world(azimuth_deg).double()) @ unit_from_local
    if mesh is not None:
        unit_from_data = unit_from_local @ local_from_data
        mesh = (mesh if _is_identity(unit_from_data) else moved_mesh(mesh, unit_from_data)).float()
    return Truth(replace(views, cameras=moved(views.cameras, world_from_local)), mesh, unit_from_world(azimuth_deg))


def truth_of_capture(mesh: Mesh, data_from_world: Tensor) -> Truth:
    """Return the ground truth of a run on a capture whose world the true mesh is in.

    A mesh of about unit size at the origin is left as it is: it may have been rotated since it was scaled.

    Args:
        mesh: float64 vertices. data_from_world: [4, 4] float64, from the run's world to that of the mesh.
    """
    low, high = mesh.vertices.aminmax(dim=0)
    unit_from_data = _unit_from_box(mesh)
    if float((high - low).max()) > LEAST_UNIT_SIDE and float(torch.maximum(-low, high).max()) < MOST_UNIT_EXTENT:
        unit_from_data = torch.eye(4, dtype=torch.float64)
    return Truth(None, moved_mesh(mesh, unit_from_data).float(), unit_from_data @ data_from_world.double())


def unit_from_world(azimuth_deg: float = 0.0) -> Tensor:
    """Return [4, 4] float32, from a run's world to the one where the longest side is 1 and the picture at azimuth 0."""
    scale = torch.diag(torch.tensor([0.5 / HALF_SIDE] * 3 + [1.0], dtype=torch.float64))
    return (scale @ turn_about_z(-azimuth_deg)).float()


def compare_mesh(prediction: Mesh, truth: Truth, *, scale_by_box: bool = False) -> dict[str, float | None]:
    """Return the `mesh_metrics` of a mesh in the run's world, in units of the longest side of the true mesh.

    scale_by_box: first scale the prediction about the middle of its bounding box, to the longest side of the true box.

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
    """Return the index of the view whose file name, with or without folder, is `wanted`; 0 for an empty name.

    Raises:
        InputError: there is no such view.
    """
    if not wanted:
        return 0
    for index, name in enumerate(names):
        if wanted in (name, Path(name).name):
            return index
    raise InputError(f"view: no view {wanted}; there are {', '.join(Path(name).name for name in names)}")


def source_rotation_deg(capture: Path) -> float:
    """Return by how many degrees the object of a capture was rotated clockwise about z after scaling; 0 if not stated.

    Raises:
        InputError: the value in transforms.json is not a finite number.
    """
    file = capture / "transforms.json" if capture.is_dir() else capture
    if not file.is_file():  # a COLMAP model
        return 0.0
    angle = json.loads(file.read_text(encoding="utf-8-sig")).get("source_rotation_deg") or 0.0
    if isinstance(angle, bool) or not isinstance(angle, int | float) or not math.isfinite(angle):
        raise InputError(f"{file}: source_rotation_deg: expected a finite number, got {angle!r:.60}")
    return float(angle)


def squared(views: ReferenceViews) -> ReferenceViews:
    """Return the views padded with transparency to square images, without depths and normals."""
    height, width = views.images.shape[1:3]
    size = max(height, width)
    left, top = (size - width) // 2, (size - height) // 2
    pad = partial(F.pad, pad=(0, 0, left, size - width - left, top, size - height - top))
    cameras = views.cameras
    cameras = Cameras(cameras.c2w, cameras.fx, cameras.fy, cameras.cx + left, cameras.cy + top, size, size)
    windows = views.windows
    if windows is None and height != width:
        windows = torch.tensor([[0, 0, width, height]]).expand(len(views), 4)
    if windows is not None:
        windows = windows + torch.tensor([left, top, left, top])
    return replace(
        views,
        images=pad(views.images),
        masks=pad(views.masks),
        cameras=cameras,
        depths=None,
        normals=None,
        windows=windows,
    )


def resized(views: ReferenceViews, size: int) -> ReferenceViews:
    """Return square views reduced to `size` pixels by area averaging, padding included; smaller ones are unchanged."""
    if views.cameras.width <= size:
        return views
    pairs = [reduce_image(image, mask, size, size) for image, mask in zip(views.images, views.masks, strict=True)]
    images, masks = (torch.stack(each) for each in zip(*pairs, strict=True))
    return replace(views, images=images, masks=masks, cameras=views.cameras.resized(size, size), windows=None)


def turn_about_z(angle_deg: float) -> Tensor:
    """Return the [4, 4] float64 rotation about z, counter-clockwise seen from above."""
    angle = math.radians(angle_deg)
    turn = torch.eye(4, dtype=torch.float64)
    turn[0, 0] = turn[1, 1] = math.cos(angle)
    turn[1, 0], turn[0, 1] = math.sin(angle), -math.sin(angle)
    return turn


def moved_mesh(mesh: Mesh, similarity: Tensor) -> Mesh:
    """Return the mesh transformed by a similarity [4, 4]."""
    similarity = similarity.double()
    vertices = mesh.vertices.double() @ similarity[:3, :3].T + similarity[:3, 3]
    return Mesh(vertices.to(mesh.vertices), mesh.faces)


def _read_capture(path: Path) -> tuple[ReferenceViews, Path | None, Tensor]:
    """Return the square views of a capture, the file of its mesh, if any, and the shift from its world to the views'.

    The views' world differs from the capture's by a shift, [4, 4] float64, of the cameras' middle to the origin.
    """
    try:
        with warnings_only():
            local_from_data = centering(torch.stack([frame.c2w for frame in read_capture(path).frames]))
            x, y, z = local_from_data[:3, 3].tolist()
            config = PosedImages.Config(str(path), normalize="as-given", offset=(x, y, z))
            source = PosedImages(config, device=torch.device("cpu"))
            return squared(source.load()), source.truth_mesh(), local_from_data
    except InputError as error:
        raise InputError(f"truth.views: {str(error).removeprefix('views.path: ')}") from None


def _unit_from_local(views: ReferenceViews, mesh: Mesh | None, rotation: Tensor, center: Point) -> Tensor:
    """Return [4, 4] float64, from the world of the views and of their mesh to that of `Truth.mesh`."""
    if mesh is None:
        low, high = object_box(moved(views.cameras, rotation), views.masks, views.windows)
    else:
        low, high = moved_mesh(mesh, rotation).vertices.aminmax(dim=0)
    middle = rotation[:3, :3].T @ ((low + high) / 2)
    start, direction = _input_ray(views, center)
    origin = start + direction * (direction @ (middle - start))
    similarity = torch.eye(4, dtype=torch.float64)
    similarity[:3, 3] = -origin
    x, y, _ = (start - origin).tolist()
    scale = torch.diag(torch.tensor([1.0 / float((high - low).max())] * 3 + [1.0], dtype=torch.float64))
    return scale @ turn_about_z(-math.degrees(math.atan2(y, x))) @ similarity


def _input_ray(views: ReferenceViews, center: Point) -> tuple[Tensor, Tensor]:
    """Return origin and unit direction, each [3] float64, of the ray through `center` of the input picture's square."""
    index = views.input_view or 0
    camera, side = views.cameras[[index]], int(views.sizes()[index].max())
    x, y = (0.5 * camera.width + (share - 0.5) * side for share in center)
    local = torch.tensor([(x - camera.cx.item()) / camera.fx.item(), (camera.cy.item() - y) / camera.fy.item(), -1.0])
    direction = camera.c2w[0, :3, :3].double() @ local.double()
    return camera.centers[0].double(), direction / direction.norm()


def _unit_from_box(mesh: Mesh) -> Tensor:
    """Return [4, 4] float64 that brings the middle of a mesh's box to the origin and its longest side to 1."""
    low, high = mesh.vertices.double().aminmax(dim=0)
    scale = 1 / max(float((high - low).max()), 1e-30)
    similarity = torch.diag(torch.tensor([scale, scale, scale, 1.0], dtype=torch.float64))
    similarity[:3, 3] = -scale * (low + high) / 2
    return similarity


def _is_identity(similarity: Tensor) -> bool:
    return bool((similarity - torch.eye(4)).abs().max() < PROTOCOL_TOLERANCE)
