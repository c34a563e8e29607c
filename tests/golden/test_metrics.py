"""Mesh and image metrics against official results, also of the folder that LIFTSTUDIO_GOLDEN names.

Such a folder holds `g_metrics.json` (results), `g_mesh.safetensors` and `g_cd_nvs.safetensors` (inputs), at any depth.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from liftstudio.mesh import Mesh
from liftstudio.metrics.images import psnr, ssim
from liftstudio.metrics.meshes import mesh_metrics

BUNDLED = Path(__file__).parents[1] / "data" / "golden_metrics"


def golden() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors, and results {"mesh": {name: ...}, "nvs": ...}: the bundled ones, or those of the folder named."""
    folder = os.environ.get("LIFTSTUDIO_GOLDEN")
    if folder is None:
        results = json.loads((BUNDLED / "golden.json").read_text())
        meshes = {name: result for name, result in results.items() if name != "nvs"}
        return load_file(BUNDLED / "golden.safetensors"), {"mesh": meshes, "nvs": results["nvs"]}
    found = next(Path(folder).rglob("g_metrics.json"), None)
    assert found is not None, f"no case of the metrics (g_metrics.json) in LIFTSTUDIO_GOLDEN={folder}"
    tensors = load_file(found.parent / "g_mesh.safetensors") | load_file(found.parent / "g_cd_nvs.safetensors")
    return tensors, json.loads(found.read_text())


TENSORS, RESULTS = golden()


def test_there_is_a_case() -> None:
    assert RESULTS["mesh"] and RESULTS["nvs"]


@pytest.mark.parametrize("name", list(RESULTS["mesh"]))
def test_mesh_metrics(name: str) -> None:
    truth = Mesh(TENSORS[f"{name}_gt_vertices_transformed"], TENSORS[f"{name}_gt_faces"].long())
    prediction = Mesh(TENSORS[f"{name}_pr_vertices"], TENSORS[f"{name}_pr_faces"].long())
    metrics = mesh_metrics(prediction, truth)
    expected = RESULTS["mesh"][name]["ray_cast"]
    assert metrics["chamfer"] == pytest.approx(expected["chamfer"], abs=1e-4)
    # Grid points on a face may fall either way (a box along the axes has many): 0.01; else the figures agree to 1e-9.
    assert metrics["iou"] == pytest.approx(expected["iou"], abs=0.01)


def test_image_metrics() -> None:
    truth, prediction = TENSORS["nvs_gt_rgba"].float() / 255, TENSORS["nvs_pr_rgb"].float() / 255
    truth, prediction = (t if t.ndim == 4 else t[None] for t in (truth, prediction))
    truth = truth[..., :3] * truth[..., 3:] + 1 - truth[..., 3:]
    expected = RESULTS["nvs"]
    assert psnr(prediction, truth).mean().item() == pytest.approx(expected["psnr"], abs=1e-3)
    assert ssim(prediction, truth).mean().item() == pytest.approx(expected["ssim"], abs=1e-4)
