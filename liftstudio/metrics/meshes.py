"""Metrics of a mesh against the true one: the SyncDreamer / HarmonyView protocol, F-score and normal consistency."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from liftstudio.core.errors import InputError
from liftstudio.data.mesh import Mesh
from liftstudio.metrics.visible_points import visible_points
from liftstudio.metrics.voxels import volume_iou

Array = NDArray[np.float64]

SURFACE_SAMPLES = 100_000  # per mesh; about 0.003 apart on an object of size 1
F_SCORE_THRESHOLDS = (0.01, 0.02)  # world units


def mesh_metrics(
    prediction: Mesh, truth: Mesh, seed: int = 0, thresholds: Sequence[float] = F_SCORE_THRESHOLDS
) -> dict[str, float | None]:
    """All metrics of `prediction` against `truth`, without alignment or scaling.

    chamfer: mean of the two mean nearest distances between the `visible_points` of the two, world units, not squared.
    iou: of the enclosed volumes, in [0, 1], on a grid of 64^3 over [-1, 1] (`volume_iou`).
    f_score_<t>: harmonic mean of the fractions of surface samples within t of the other's, in [0, 1].
    normal_consistency: mean |n . n'| of the normals at nearest surface samples, in [0, 1].

    Undefined metrics are None: chamfer if no point of a mesh is visible to the cameras, normal_consistency if the
    prediction has no surface. In the latter case, IoU and F-scores are 0.

    Args:
        prediction, truth: world units, z up, within about [-0.5, 0.5].
        seed: of the surface samples.
        thresholds: of the F-scores, world units.

    Raises:
        InputError: the truth has no surface, or a vertex of either is not finite.
    """
    for name, mesh in (("the predicted mesh", prediction), ("the true mesh", truth)):
        if not torch.isfinite(mesh.vertices).all():
            raise InputError(f"{name} has vertices that are not finite")
    if not _has_surface(truth):
        raise InputError("the true mesh has no surface: nothing to compare with")
    return {
        "chamfer": chamfer(prediction, truth),
        "iou": volume_iou(prediction, truth),
        **_sample_metrics(prediction, truth, seed, thresholds),
    }


def place_truth(mesh: Mesh, turned_deg: float = 0.0) -> Mesh:
    """A true mesh as the protocol compares it: centred, longest side 1, rotated to the azimuth of the input view.

    The bounding box is centred and scaled first; the rotation is about z, clockwise seen from above (HarmonyView,
    `eval_mesh.py`, which lists the angle of each of its objects).

    Args:
        mesh: at least one vertex, z up.
        turned_deg: azimuth of the object's input view, degrees.
    """
    vertices = mesh.vertices.double()
    low, high = vertices.amin(dim=0), vertices.amax(dim=0)
    centred = (vertices - (low + high) / 2) / (high - low).max()
    sine, cosine = math.sin(math.radians(turned_deg)), math.cos(math.radians(turned_deg))
    turn = vertices.new_tensor([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    return Mesh((centred @ turn.T).to(mesh.vertices), mesh.faces)


def chamfer(prediction: Mesh, truth: Mesh) -> float | None:
    """Return the chamfer distance of two meshes by the protocol of SyncDreamer and HarmonyView; see `mesh_metrics`."""
    return chamfer_distance(visible_points(prediction), visible_points(truth))


def chamfer_distance(a: Array, b: Array) -> float | None:
    """Mean of the two mean nearest Euclidean distances a -> b and b -> a of points [N, 3]; None if either is empty."""
    if len(a) == 0 or len(b) == 0:
        return None
    return float(_nearest(a, b)[0].mean() + _nearest(b, a)[0].mean()) / 2


def f_score(to_truth: Array, to_prediction: Array, threshold: float) -> float:
    """Harmonic mean of precision and recall, the fractions of the nearest distances [N] below `threshold`.

    Knapitsch et al. 2017, "Tanks and Temples". 0 if both fractions are 0.
    """
    precision, recall = (float((distances < threshold).mean()) for distances in (to_truth, to_prediction))
    return 2 * precision * recall / max(precision + recall, 1e-12)


def sample_surface(mesh: Mesh, count: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Random points [count, 3] uniform over the area, and the unit normals [count, 3] of their faces.

    The mesh must have a face of nonzero area.
    """
    corners = mesh.corners().detach().cpu().double().numpy()
    sides = corners[:, 1:] - corners[:, :1]
    normals = np.cross(sides[:, 0], sides[:, 1])
    doubled_area = np.linalg.norm(normals, axis=1)
    face = generator.choice(len(corners), count, p=doubled_area / doubled_area.sum())
    root, split = np.sqrt(generator.random(count)), generator.random(count)
    weights = np.stack([1 - root, root * (1 - split), root * split], axis=1)
    points = np.einsum("nk,nkd->nd", weights, corners[face])
    return points, normals[face] / doubled_area[face, None]


def _sample_metrics(prediction: Mesh, truth: Mesh, seed: int, thresholds: Sequence[float]) -> dict[str, float | None]:
    names = [f"f_score_{threshold:g}" for threshold in thresholds]
    if not _has_surface(prediction):
        return {**dict.fromkeys(names, 0.0), "normal_consistency": None}
    generator = np.random.default_rng(seed)
    points, normals = sample_surface(prediction, SURFACE_SAMPLES, generator)
    true_points, true_normals = sample_surface(truth, SURFACE_SAMPLES, generator)
    to_truth, nearest_true = _nearest(points, true_points)
    to_prediction, nearest = _nearest(true_points, points)
    scores = {name: f_score(to_truth, to_prediction, t) for name, t in zip(names, thresholds, strict=True)}
    # Mescheder et al. 2019, "Occupancy Networks", sec. 4: the absolute value ignores the winding.
    alignments = (normals * true_normals[nearest_true], true_normals * normals[nearest])
    return {**scores, "normal_consistency": float(np.mean([np.abs(a.sum(axis=1)).mean() for a in alignments]))}


def _nearest(points: Array, others: Array) -> tuple[Array, NDArray[np.int64]]:
    """Distance to, and index of, the nearest of `others` for each of `points`."""
    distances, indices = cKDTree(others).query(points, workers=torch.get_num_threads())
    return distances, indices


def _has_surface(mesh: Mesh) -> bool:
    return len(mesh.faces) > 0 and bool(mesh.face_area_vectors().any())
