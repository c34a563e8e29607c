"""The notebook runs from top to bottom, and shows pictures and a mesh."""

from pathlib import Path

import nbformat
import pytest
from helpers.paths import ROOT
from nbclient import NotebookClient

SMALL = {
    "STEPS = 60": "STEPS = 2",
    '"test.frames": 12': '"test.frames": 1, "test.size": 16, "views.enhance": None, "views.orbit.frames": 5, '
    '"system.stages.surface.geometry.resolution": 24',
    "512": "128, 'export.target_faces': 1000",
}


def test_the_notebook_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples/quickstart.ipynb", as_version=4)
    for cell in notebook.cells:
        for text, smaller in SMALL.items():
            cell.source = cell.source.replace(text, smaller)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(here)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    assert any("closed: True" in output.get("text", "") for output in outputs)
    assert any("three" in output.get("data", {}).get("text/html", "").lower() for output in outputs), "no 3D scene"
    assert list(here.glob("runs/sv3d-masked-sds/*/export/mesh.glb"))
