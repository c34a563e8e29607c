"""Mesh and image metrics compared with official results, also on cases in LIFTSTUDIO_GOLDEN.

Such a folder holds `g_metrics.json` (results) and `g_*.safetensors` (inputs) beside it, at any depth.
"""

import json
from collections import ChainMap
from typing import Any

import pytest
import torch
from helpers.golden_data import golden_root
from helpers.paths import GOLDEN
from safetensors.torch import load_file
from torch import Tensor

from liftstudio.data.mesh import Mesh
from liftstudio.metrics.diversity import cd_score, cd_terms
from liftstudio.metrics.images import psnr, ssim
from liftstudio.metrics.meshes import chamfer_distance, mesh_metrics, place_truth
from liftstudio.metrics.visible_points import visible_points

BUNDLED = GOLDEN / "metrics"


def golden() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and results {"mesh": {name: ...}, "cd": ..., "nvs": ...}; both empty if there are none."""
    found = next(golden_root(BUNDLED).rglob("g_metrics.json"), None)
    if found is None:
        return {}, {}
    tensors = [load_file(path) for path in sorted(found.parent.glob("g_*.safetensors"))]
    return dict(ChainMap(*tensors)), json.loads(found.read_text())


TENSORS, RESULTS = golden()
MESHES = list(RESULTS.get("mesh", {}))
needs_case = pytest.mark.skipif(not RESULTS, reason="no case of the metrics")


def mesh(name: str, vertices: str) -> Mesh:
    faces = "gt_faces" if vertices.startswith("gt") else "pr_faces"
    return Mesh(TENSORS[f"{name}_{vertices}"], TENSORS[f"{name}_{faces}"].long())


def test_there_is_a_case() -> None:
    missing = {"mesh", "cd", "nvs"} - RESULTS.keys()
    assert not missing, f"no case of the metrics {sorted(missing)} (g_metrics.json) in {golden_root(BUNDLED)}"


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.usefixtures("few_surface_samples")
def test_mesh_metrics(name: str) -> None:
    metrics = mesh_metrics(mesh(name, "pr_vertices"), mesh(name, "gt_vertices_transformed"))
    expected = RESULTS["mesh"][name]["ray_cast"]
    assert metrics["chamfer"] == pytest.approx(expected["chamfer"], abs=1e-4)
    assert metrics["iou"] == pytest.approx(expected["iou"], abs=2e-3)


@pytest.mark.parametrize("name", MESHES)
def test_chamfer_with_depth_linear_on_the_screen(name: str) -> None:
    shapes = mesh(name, "pr_vertices"), mesh(name, "gt_vertices_transformed")
    chamfer = chamfer_distance(*(visible_points(shape, depth="screen") for shape in shapes))
    assert chamfer == pytest.approx(RESULTS["mesh"][name]["screen_space"]["chamfer"], abs=1e-4)


@pytest.mark.parametrize("name", MESHES)
def test_placing_of_the_truth(name: str) -> None:
    placed = place_truth(mesh(name, "gt_vertices_raw"), RESULTS["mesh"][name]["rot_angle_deg"])
    expected = TENSORS[f"{name}_gt_vertices_transformed"]
    assert torch.allclose(placed.vertices, expected, rtol=0, atol=1e-6)  # one step of float32 at 0.5 is 6e-8


@needs_case
def test_cd_score() -> None:
    expected = RESULTS["cd"]
    diversity, variance = cd_terms(TENSORS["cd_image_embeddings"], TENSORS["cd_text_embedding"])
    assert diversity.tolist() == pytest.approx(expected["D"], rel=1e-4)
    assert variance.tolist() == pytest.approx(expected["S_var"], rel=1e-4)
    # The official script averages terms that it wrote with five decimals.
    assert cd_score(diversity, variance) == pytest.approx(expected["cd_score"], rel=1e-4)


@needs_case
def test_image_metrics() -> None:
    truth, prediction = TENSORS["nvs_gt_rgba"].float() / 255, TENSORS["nvs_pr_rgb"].float() / 255
    truth, prediction = (t if t.ndim == 4 else t[None] for t in (truth, prediction))
    truth = truth[..., :3] * truth[..., 3:] + 1 - truth[..., 3:]
    expected = RESULTS["nvs"]
    assert psnr(prediction, truth).mean().item() == pytest.approx(expected["psnr"], abs=1e-3)
    images, scaled = (prediction, truth), (0.5 + 0.25 * prediction, 0.5 + 0.25 * truth)
    for name, pair in (("ssim", images), ("ssim_of_images_scaled_0.5_plus_0.25x", scaled)):
        assert ssim(*pair, value_range(*pair)).mean().item() == pytest.approx(expected[name], abs=1e-4)
        assert ssim(*pair).mean().item() == pytest.approx(expected[f"{name}_data_range_1"], abs=1e-4)


def value_range(*images: Tensor) -> float:
    """Return torchmetrics' default data range of SSIM."""
    return max((each.max() - each.min()).item() for each in images)
