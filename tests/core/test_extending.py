"""docs/extending.md, word for word: its code in custom/, its config, its commands and their output."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.tiny_project import write_capture

from liftstudio.cli.command_line import main
from liftstudio.core import registry

DOCUMENT = (ROOT / "docs" / "extending.md").read_text()
SMALL = [
    "data.path=capture",
    "device=cpu",
    "tag=small",
    "system.stages.shape.steps=40",
    "system.stages.detail.steps=5",
    "system.stages.detail.geometry.resolution=16",
    "log.every=1",
    "log.images_every=0",
    "log.tensorboard=false",
    "test.frames=1",
    "test.size=16",
    "test.stills=1",
    "export.texture_size=64",
]


def block(language: str) -> str:
    """Return the document's first code block in a language."""
    found = re.search(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder with the document's extension and a few images of a sphere."""
    folder = tmp_path / "custom" / "outlines"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(block("python"))
    (folder / "outlines.yaml").write_text(block("yaml"))
    write_capture(tmp_path / "capture", views=6, size=32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "extension_failures", {})
    yield tmp_path
    registry._forget("liftstudio_custom_outlines")


def test_the_example_runs_and_learns(project: Path) -> None:
    assert main(["--config", "custom/outlines/outlines.yaml", "--train", *SMALL]) == 0
    run = project / "runs" / "outlines" / "small"
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    overlap = [float(row["outline/overlap"]) for row in rows if row["stage"] == "shape"]
    color = [float(row["color/rgb"]) for row in rows if row["stage"] == "shape"]
    assert len(overlap) == 40
    assert sum(overlap[-5:]) < 0.5 * sum(overlap[:5]) and sum(color[-5:]) < sum(color[:5])
    assert (run / "export" / "mesh.glb").stat().st_size > 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["training"]["psnr"] > 15


def test_the_listing_is_what_the_document_says(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "geometry"]) == 0
    assert block("text") in capsys.readouterr().out
    assert main(["--list", "guidance"]) == 0
    assert "    lambda_overlap: a schedule = 1.0  # 1 - intersection over union" in capsys.readouterr().out


def test_every_kind_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `([\w-]+)` \|", DOCUMENT, re.MULTILINE)) == set(registry.BUILTIN)


def test_a_failed_import_says_what_the_document_says(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init = project / "custom" / "outlines" / "__init__.py"
    init.write_text("import missing_package\n" + init.read_text())
    assert main(["--list"]) == 0
    warning = re.findall(r"```text\n(.*?)```", DOCUMENT, re.DOTALL)[1]
    assert warning in capsys.readouterr().err
    assert main(["--config", "custom/outlines/outlines.yaml", "--train", *SMALL]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "unknown geometry 'superellipsoid'" in error and "failed to load: outlines" in error


def test_a_failed_import_unregisters_nothing_else(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A liftstudio component that the extension is the first to import stays registered."""
    component = "from liftstudio.lights.uniform import *\n@register('lazy')\nclass Lazy(Uniform):\n    pass\n"
    (project / "lazily_imported.py").write_text(component)
    monkeypatch.syspath_prepend(project)
    monkeypatch.setitem(registry.BUILTIN["light"], "lazy", "lazily_imported")
    (project / "custom" / "outlines" / "__init__.py").write_text("import lazily_imported, missing_package\n")
    registry.load_extensions(project / "custom")
    assert "outlines" in registry.extension_failures
    assert registry.find("lazy", "light").__name__ == "Lazy"
    registry._forget("lazily_imported")
