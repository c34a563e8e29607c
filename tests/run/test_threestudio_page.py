"""docs/from-threestudio.md: its configs are accepted."""

import re
from pathlib import Path

import pytest
from helpers.paths import ROOT

from liftstudio.core import registry
from liftstudio.run.config import load_run_config

BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "from-threestudio.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=["dreamfusion", "zero123"])
def test_the_page_s_configs_are_accepted(block: str, tmp_path: Path) -> None:
    registry.load_methods()
    path = tmp_path / "config.yaml"
    path.write_text(block)
    config = load_run_config(path, ["prior.weights=weights"])
    assert config.system.type == "coarse-to-fine"
