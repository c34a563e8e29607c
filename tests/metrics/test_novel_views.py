"""Comparison with true views that show little."""

import json
from pathlib import Path
from typing import Literal, cast, get_args

import pytest
import torch
from helpers.paths import ROOT

from liftstudio.core.errors import InputError
from liftstudio.data.cameras import orbit_cameras
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.metrics.diversity import Form, cd_terms
from liftstudio.metrics.embeddings import Clip
from liftstudio.metrics.flow import check_raft_size
from liftstudio.metrics.novel_views import CdScore, Judges, compare_views
from liftstudio.run.config import TruthConfig
from liftstudio.run.truth import load_truth

SIZE = 64


def line_views(width: int) -> ReferenceViews:
    """Return three views of an upright dark line of a given width in pixels; the first is the input."""
    masks = torch.zeros(3, SIZE, SIZE, 1)
    masks[:, 10:54, 31 : 31 + width] = 1
    images = 1 - 0.8 * masks.expand(-1, -1, -1, 3)
    cameras = orbit_cameras(torch.tensor([0.0, 120, 240]), torch.zeros(3), 3.0, 40.0, SIZE, SIZE)
    return ReferenceViews(
        images, masks, cameras, names=("0", "1", "2"), held_out=torch.zeros(3).bool(), input_views=(0,)
    )


@pytest.mark.parametrize("width, true_width", [(1, 10), (10, 1), (1, 1), (0, 1)])
def test_objects_thinner_than_a_feature_are_compared_as_whole_views(width: int, true_width: int) -> None:
    made, truth = line_views(width), line_views(true_width)
    row = compare_views(made.images, made.masks, truth, Judges())
    assert all(torch.tensor(value).isfinite() for value in row.values())
    assert (row["psnr"] == 100) == (width == true_width)


class MeanColors:
    """Stands in for CLIP: images are embedded by their halves' mean colours, the text in a fixed direction."""

    def images(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images[:, :, :32].mean((1, 2)), images[:, :, 32:].mean((1, 2))], dim=-1)

    def text(self, text: str) -> torch.Tensor:
        return torch.arange(1.0, 7.0)[None]


@pytest.mark.parametrize("form", get_args(Form))
@pytest.mark.parametrize("reference", ["first-view", "input-image"])
def test_forms_of_the_cd_score(form: Form, reference: Literal["first-view", "input-image"]) -> None:
    truth = line_views(4)
    made = torch.rand(3, SIZE, SIZE, 3)
    judges = Judges(clip=cast(Clip, MeanColors()), text="a line", cd=CdScore(form, reference))
    row = compare_views(made, truth.masks, truth, judges)
    embedded = MeanColors().images(made)
    other = embedded[:1] if reference == "first-view" else MeanColors().images(truth.over(1.0)[:1])
    distance, variance = cd_terms(embedded, MeanColors().text(""), other, form)
    assert row["cd_distance"] == pytest.approx(float(distance)) and row["cd_variance"] == pytest.approx(float(variance))


def test_truth_of_a_single_view_is_refused(tmp_path: Path) -> None:
    content = json.loads((ROOT / "assets/demo/mario/transforms.json").read_text())
    content["frames"] = content["frames"][:1]
    content["mesh"] = str(ROOT / "assets/demo/mario/mesh.obj")
    (tmp_path / "images").mkdir()
    name = content["frames"][0]["file_path"]
    (tmp_path / name).write_bytes((ROOT / "assets/demo/mario" / name).read_bytes())
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="expected the input view and others to compare with, got 1 view"):
        load_truth(TruthConfig(views=str(tmp_path)))


def test_sizes_that_raft_takes() -> None:
    check_raft_size(128, 256)
    for height, width in ((100, 256), (256, 250), (64, 64)):
        with pytest.raises(InputError, match="RAFT: expected images whose sides are multiples of 8"):
            check_raft_size(height, width)
