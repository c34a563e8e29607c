"""Where configs and assets are found, in a checkout and installed."""

from pathlib import Path

import pytest
from helpers.paths import ROOT

from liftstudio.core import assets
from liftstudio.core.assets import find_config, input_path
from liftstudio.core.errors import InputError


def test_a_bare_name_is_a_file_here_or_a_packaged_config(here: Path) -> None:
    packaged = ROOT / "configs" / "sv3d-masked-sds.yaml"
    assert find_config(Path("sv3d-masked-sds")) == find_config(Path("sv3d-masked-sds.yaml")) == packaged
    assert find_config(Path("toys"), "priors") == ROOT / "configs" / "priors" / "toys.yaml"
    (here / "sv3d-masked-sds").mkdir()  # a folder of that name is no config
    assert find_config(Path("sv3d-masked-sds")) == packaged
    (here / "sv3d-masked-sds.yaml").write_text("seed: 1\n")
    assert find_config(Path("sv3d-masked-sds")) == Path("sv3d-masked-sds.yaml")


def test_a_path_is_left_as_it_is(here: Path) -> None:
    assert find_config(Path("configs/none.yaml")) == Path("configs/none.yaml")


def test_an_unknown_name_suggests_a_packaged_one(here: Path) -> None:
    with pytest.raises(InputError, match="config not found: sv3d-masked; did you mean 'sv3d-masked-sds'"):
        find_config(Path("sv3d-masked"))
    with pytest.raises(InputError, match=r"config not found: \?; packaged: .*harmonyview, "):
        find_config(Path("?"))


def test_an_installed_package_holds_its_own_folders(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert assets.is_checkout() and input_path("asset://demo") == ROOT / "assets" / "demo"
    (here / "liftstudio" / "assets").mkdir(parents=True)
    monkeypatch.setattr(assets, "PACKAGE", here / "liftstudio")
    assert not assets.is_checkout() and input_path("asset://demo") == here / "liftstudio" / "assets" / "demo"
