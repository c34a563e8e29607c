"""The single prior of a run, and its required options."""

from pathlib import Path
from typing import Any

import pytest

from liftstudio.core import assets
from liftstudio.core.config import to_plain, write_config
from liftstudio.run.config import deciding_options, load_run_config

WITH_PRIOR = sorted(
    path.stem for path in assets.packaged("configs").glob("*.yaml") if not path.stem.startswith("reconstruct-")
)


def decided(path: Path, *overrides: str) -> dict[str, Any]:
    return deciding_options(load_run_config(path, [*overrides, "tag=a"]))


def priors(plain: Any) -> list[str]:
    """Return the weights of all view priors in a config, without those of other kinds."""
    if isinstance(plain, list):
        return [weights for item in plain for weights in priors(item)]
    if not isinstance(plain, dict):
        return []
    own = [plain["prior"]["weights"]] if "prior" in plain and plain["prior"]["type"] != "sd2-depth" else []
    return own + [weights for item in plain.values() for weights in priors(item)]


@pytest.mark.parametrize("name", WITH_PRIOR)
def test_one_key_chooses_the_prior_everywhere(name: str) -> None:
    found = priors(decided(assets.packaged("configs") / f"{name}.yaml", "prior.weights=mine.safetensors"))
    assert found and set(found) == {"mine.safetensors"}


def test_a_saved_config_has_the_same_deciding_options(tmp_path: Path) -> None:
    """The prior counts where it is used; an unreferenced copy has no effect."""
    path, saved = assets.packaged("configs") / "sv3d-masked-sds.yaml", tmp_path / "config.yaml"
    plain = to_plain(load_run_config(path, ["prior.chunk=3"]))
    saved.write_text(write_config(plain))
    assert decided(saved) == decided(path, "prior.chunk=3") != decided(path)
    saved.write_text(write_config(plain | {"prior": None}))
    assert decided(saved) == decided(path, "prior.chunk=3")
