"""Paths in the checkout that several tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "data"
OBJECTS_PACK = ROOT / "tests" / "training" / "meshes" / "objects_pack"
