"""What the shell is offered after a part of a command line."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.paths import ROOT


def offered(line: str, folder: Path) -> set[str]:
    """Return what the program offers at the end of a line."""
    answer = folder / "answer"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_IFS": "\n",
    }
    subprocess.run([sys.executable, "-m", "liftstudio"], env=environment, cwd=folder, timeout=60, check=False)
    return set(answer.read_text().split("\n"))


def test_configs_flags_and_options(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("seed: 0\nsystem: {type: coarse-to-fine, stages: {only: {steps: 3}}}\n")
    assert {"sv3d-masked-sds", "own.yaml"} <= offered("liftstudio --config ", tmp_path)
    assert offered("liftstudio --config sv3d-m", tmp_path) == {"sv3d-masked-sds "}
    assert offered("liftstudio --config own.yaml --tr", tmp_path) == {"--train "}
    assert {"seed=", "system.stages.only.steps="} <= offered("liftstudio --config own.yaml --train s", tmp_path)
    assert "views.elevation_deg=" in offered("liftstudio --config sv3d-masked-sds --train views.", tmp_path)
