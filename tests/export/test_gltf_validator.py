import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import trimesh
from export_shapes import lopsided, position_color
from helpers.tiny_scenes import from_trimesh

from liftstudio.data.mesh import Mesh
from liftstudio.export import ExportConfig
from liftstudio.export.pipeline import export_mesh

HERE = Path(__file__).parent
SCRIPT = """
const [path] = process.argv.slice(-1);
require('gltf-validator').validateBytes(new Uint8Array(require('fs').readFileSync(path)))
  .then(report => console.log(JSON.stringify(report.issues)));
"""


def validate(path: Path) -> dict:
    """Return the issues that Khronos' validator finds in a GLB."""
    assert (HERE / "node_modules" / "gltf-validator").is_dir(), "run: npm install --prefix tests/export"
    done = subprocess.run(["node", "-e", SCRIPT, str(path)], cwd=HERE, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def tent() -> Mesh:
    """Return an open mesh with zero-area faces and a vertex whose normals cancel."""
    vertices = torch.tensor(
        [[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.5], [0.5, 0, 0], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    )
    return Mesh(vertices, torch.tensor([[0, 1, 2], [0, 2, 3], [0, 4, 1], [5, 6, 7]]))


@pytest.mark.skipif(shutil.which("node") is None, reason="Khronos' glTF validator needs node, which is not installed")
@pytest.mark.parametrize("shape", ["lopsided", "box", "tent", "noisy"])
def test_glb_files_are_valid(tmp_path: Path, shape: str) -> None:
    shapes = {
        "lopsided": lopsided,
        "box": lambda: from_trimesh(trimesh.creation.box()),
        "tent": tent,
        "noisy": lambda: lopsided(64, 0.03),
    }
    config = ExportConfig(
        texture_size=256, target_faces=5000, shaded=True, min_component_area=0.0, normal_map=True, occlusion_map=True
    )
    export_mesh(shapes[shape](), position_color, tmp_path, config, shaded=lambda points, normals: 0.5 * normals + 0.5)
    for name in ("mesh.glb", "mesh_shaded.glb"):
        issues = validate(tmp_path / name)
        assert issues["numErrors"] == 0, issues["messages"]
        assert issues["numWarnings"] == 0, issues["messages"]


@pytest.mark.skipif(shutil.which("node") is None, reason="Khronos' glTF validator needs node, which is not installed")
@pytest.mark.parametrize(
    "options", [{"texture_format": "webp", "normal_map": True}, {"texture_format": "jpeg"}, {"color": "vertices"}]
)
def test_glb_files_are_valid_with_other_colours(tmp_path: Path, options: dict) -> None:
    export_mesh(lopsided(), position_color, tmp_path, ExportConfig(texture_size=128, **options))
    issues = validate(tmp_path / "mesh.glb")
    assert issues["numErrors"] == 0, issues["messages"]
    # The validator knows neither the extension for WebP nor, then, its images.
    known = {"UNSUPPORTED_EXTENSION", "IMAGE_UNRECOGNIZED_FORMAT"}
    assert not [message for message in issues["messages"] if message["severity"] < 2 and message["code"] not in known]
