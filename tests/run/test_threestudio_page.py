"""docs/from-threestudio.md: its config and the packaged one that it names are accepted."""

import re
from pathlib import Path

import pytest
from helpers.paths import ROOT

from liftstudio.core import registry
from liftstudio.core.assets import packaged
from liftstudio.run.config import load_run_config

PAGE = (ROOT / "docs" / "from-threestudio.md").read_text()
(DREAMFUSION,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("config", [DREAMFUSION, (packaged("configs") / "zero123.yaml").read_text()])
def test_the_page_s_configs_are_accepted(config: str, tmp_path: Path) -> None:
    registry.load_methods()
    path = tmp_path / "config.yaml"
    path.write_text(config)
    assert load_run_config(path, ["prior.weights=weights"]).system.type == "coarse-to-fine"
