"""Run folders as runs leave them, made without a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from helpers.paths import ROOT
from liftstudio.core.config import to_plain
from liftstudio.run.config import load_run_config
from liftstudio.run.folder import RunFolder, create_run_folder

METRICS: dict[str, Any] = {
    "run": {
        "stages": {"surface": {"steps": 20, "seconds": 12.5}},
        "test_seconds": 2.0,
        "device": "cpu",
        "versions": {"liftstudio": "0.1.0", "torch": "2.9"},
        "memory_gb": 1.5,
    },
    "elevation": {"estimated_deg": 21.0, "expected_error_deg": 9.0, "by_hand": "views.elevation_deg=21"},
    "test": {"training": {"psnr": 21.5, "ssim": 0.9}, "views": []},
    "mesh": {"chamfer": 0.02, "f_score_0.01": 0.6, "normal_consistency": None},
    "export": {
        "faces": 320,
        "vertices": 162,
        "watertight": True,
        "components": 1,
        "texture_size": 64,
        "bounding_box": {"min": [-0.5, -0.5, -0.5], "max": [0.5, 0.5, 0.5]},
    },
}


def make_run(
    runs: Path,
    *overrides: str,
    tag: str = "a",
    config: str = "configs/sv3d-masked-sds.yaml",
    metrics: dict[str, Any] | None = None,
    texture: int = 64,
    prompt: str | None = None,
) -> RunFolder:
    """Make the folder of a finished run of a config; `texture`: texels along a side of the exported mesh's."""
    resolved = {**to_plain(load_run_config(ROOT / config, [*overrides, f"tag={tag}"])), "prompt": prompt}
    command = f"python launch.py --config {config} --train {' '.join(overrides)}"
    folder = create_run_folder(runs, resolved["name"], tag, resolved, None, command)
    folder.metrics.write_text(json.dumps(METRICS if metrics is None else metrics))
    rows = [f"{step},surface,{step},{1 / step:.4f},{0.5 / step:.4f},0.1,{0.5 + step / 100}" for step in range(2, 22, 2)]
    header = "total_step,stage,step,loss,views/rgb,seconds_per_step,memory_gb"
    folder.log_csv.write_text("\n".join([header, *rows]) + "\n")
    for name in ("views/contact_sheet.png", "test/contact_sheet.png", "test/stills/000_rgb.png"):
        path = folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (96, 64), (200, 80, 40)).save(path)
    folder.export.mkdir()
    textured_sphere(texture).export(folder.export / "mesh.glb")
    return folder


def textured_sphere(texels: int, subdivisions: int = 2) -> trimesh.Trimesh:
    """Return a sphere of radius 0.5 with a noisy texture, red above and blue below."""
    sphere = trimesh.creation.icosphere(subdivisions, 0.5)
    pixels = np.random.default_rng(0).integers(0, 60, (texels, texels, 3), dtype=np.uint8)
    pixels[: texels // 2, :, 0] += 190
    pixels[texels // 2 :, :, 2] += 190
    uv = np.stack([np.full(len(sphere.vertices), 0.5), sphere.vertices[:, 1] + 0.5], axis=1)
    material = PBRMaterial(baseColorTexture=Image.fromarray(pixels), metallicFactor=0.0, roughnessFactor=1.0)
    sphere.visual = TextureVisuals(uv, material=material)
    return sphere
