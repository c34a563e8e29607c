"""Sizes of stages that follow the reference views."""

from typing import Any

import pytest
import torch
from helpers.tiny_scenes import sphere_views
from lightning_fabric import Fabric

from liftstudio.core import assets
from liftstudio.core.config import parse, read_config, to_plain
from liftstudio.core.errors import InputError
from liftstudio.core.memory import memory_options
from liftstudio.core.shares import Share
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.run.config import RunConfig
from liftstudio.systems.coarse_to_fine import CoarseToFine
from liftstudio.systems.stage_config import with_sizes

GRID = {"levels": 2, "log2_table_size": 8, "base_resolution": 4, "hidden": 8}


def data(**changes: Any) -> dict[str, Any]:
    geometry = {"type": "instant-ngp", "grid": {**GRID, "finest_resolution": "1x"}, **changes}
    return {
        "stages": {
            "only": {
                "steps": 1,
                "geometry": geometry,
                "renderer": {"type": "volume", "samples_across": ".5x"},
                "guidance": {
                    "views": {"type": "reconstruction", "resolution": ["0.25x", 7, 0], "resolution_milestones": [1, 2]}
                },
            }
        }
    }


def system(config: dict[str, Any], views: ReferenceViews | None) -> CoarseToFine:
    parsed = parse(config, CoarseToFine.Config)
    fabric = Fabric(accelerator="cpu", devices=1)
    return CoarseToFine(parsed, views=views, device=torch.device("cpu"), seed=0, fabric=fabric)


@pytest.mark.parametrize("width", [16, 36])
def test_they_are_numbers_once_the_views_are_known(width: int) -> None:
    built = system(data(), sphere_views(2, width, radius=0.7))
    stage = built.config.stages["only"]
    assert stage.geometry.options.grid.finest_resolution == width
    assert stage.renderer.options.samples_across == width // 2
    assert built.guidance["only"]["views"].config.resolution == [width // 4, 7, 0]
    request = built.guidance["only"]["views"].request(0, torch.Generator().manual_seed(0))
    assert request.cameras.width == width // 4


def test_a_saved_config_keeps_the_share() -> None:
    config = parse(data(), CoarseToFine.Config)
    again = parse(to_plain(config), CoarseToFine.Config)
    assert again == config and to_plain(config)["stages"]["only"]["renderer"]["samples_across"] == "0.5x"
    assert again.stages["only"].renderer.options.samples_across == Share(0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0x", "geometry.grid.finest_resolution: expected a whole number from 1 to 65536, or a share of the views'"),
        ("-1x", "geometry.grid.finest_resolution: expected"),
        ("x", "geometry.grid.finest_resolution: expected"),
        ("1 x", "geometry.grid.finest_resolution: expected"),
        ("0.1x", "system.stages.only.geometry.grid.finest_resolution: expected 4 or more, got 2"),
        ("5000x", "system.stages.only.geometry.grid.finest_resolution: expected 1 to 65536, got 120000"),
    ],
)
def test_shares_that_make_no_sense(given: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        system(data(grid={**GRID, "finest_resolution": given}), sphere_views(2, 24, radius=0.7))
    assert message in str(raised.value)


def test_other_options_are_numbers() -> None:
    with pytest.raises(InputError, match=r"surface_resolution: expected a whole number, got '1x'"):
        parse(data(surface_resolution="1x"), CoarseToFine.Config)


def test_a_share_needs_views() -> None:
    config = parse(data(), CoarseToFine.Config)
    with pytest.raises(InputError, match=r"system\.stages\.only\.geometry\.grid\.finest_resolution: 1x is a share"):
        with_sizes(config.stages, 0, "system.stages")


def test_advice_on_memory_names_the_number() -> None:
    (line,) = [text for _, text in memory_options({"system": data()}, "system", 256) if "samples_across" in text]
    assert line.endswith("renderer.samples_across=64 (now .5x)")


def test_presets_are_those_of_views_of_256_pixels() -> None:
    """The shares are chosen such that bundled priors give what they gave with fixed numbers."""
    config = parse(read_config(assets.packaged("configs") / "sv3d-masked-sds.yaml", []), RunConfig)
    stages = {width: with_sizes(config.system.options.stages, width, "") for width in (256, 576)}
    for width, tets, renders in ((256, 96, [128, 256]), (576, 216, [288, 576])):
        for stage in ("fine", "surface"):
            assert stages[width][stage].geometry.options.resolution == tets
            assert stages[width][stage].guidance["views"].options.resolution == renders
        assert stages[width]["coarse"].guidance["views"].options.resolution == [width // 8]
        assert stages[width]["coarse"].renderer.options.samples_across == tets
        assert stages[width]["surface"].geometry.options.grid.finest_resolution == width
