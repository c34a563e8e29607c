"""Estimated depth and normals of views, from the networks to the losses that compare with them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.seeds import fresh_seed
from helpers.tiny_hifi123 import write_estimator, write_normals
from helpers.tiny_prior import TinyBall
from safetensors.torch import load_file, save_file

from liftstudio.core import registry
from liftstudio.core.cache import cache_folder
from liftstudio.core.config import parse
from liftstudio.core.errors import InputError
from liftstudio.core.schedules import Schedule
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.methods.hifi123 import monocular

SEED = fresh_seed(__name__)
CPU = torch.device("cpu")
SIZE = 32


@pytest.fixture(autouse=True)
def folder(ball_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(TinyBall, "check_cameras", lambda *_: None)
    return ball_folder


def make(maps: dict[str, Any] | None, **options: Any) -> ReferenceViews:
    data: dict[str, Any] = {"image": "ball.png", "steps": 2, "resolution": SIZE, "held_out": True, **options}
    data.setdefault("elevation_deg", 10)
    data["prior"] = {"type": "tiny-ball", "weights": "ball.safetensors"}
    data |= {} if maps is None else {"maps": {"type": "monocular", **maps}}
    cls = registry.find("zero123-views", "views")
    return cls(parse(data, cls.Config, "views"), device=CPU).load()


def test_maps_of_the_networks(folder: Path) -> None:
    """Depth grows with distance for any network; normals are in world axes; both are cached."""
    write_estimator(folder / "dpt", SEED)
    write_normals(folder / "marigold", SEED, SIZE)
    views = make({"depth": "dpt", "normals": "marigold"}, held_out=False)
    assert views.input_view == 3 and not views.held_out.any()
    assert views.depths is not None and views.normals is not None
    plain = make(None)
    assert plain.depths is None and torch.equal(plain.images, views.images)
    over_grey = plain.over(0.5)
    nearness = monocular.DepthEstimator("dpt", device=CPU)(over_grey)
    torch.testing.assert_close(views.depths, -nearness, rtol=1e-5, atol=1e-4)
    seen = monocular.NormalEstimator("marigold", device=CPU)(over_grey)
    assert (views.normals.norm(dim=-1) - 1).abs().max() < 1e-4
    back = torch.einsum("vij,vhwi->vhwj", views.cameras.c2w[:, :3, :3], views.normals)  # into the camera's axes
    torch.testing.assert_close(back, seen, rtol=0, atol=1e-4)
    again = make({"depth": "dpt", "normals": "marigold"}, held_out=False)
    assert again.normals is not None and torch.equal(again.normals, views.normals)
    assert len(list((cache_folder() / "view-maps").glob("*.ckpt"))) == 1 and len(TinyBall.prompts) == 1


def test_views_that_no_loss_reads_are_not_estimated(folder: Path) -> None:
    """Held-out views are skipped; if they are trained on later, the cached maps are not reused."""
    write_estimator(folder / "dpt", SEED)
    held_out, free = make({"depth": "dpt"}), make({"depth": "dpt"}, held_out=False)
    assert held_out.held_out.tolist() == [True] * 3 + [False] and not free.held_out.any()
    assert held_out.depths is not None and free.depths is not None
    torch.testing.assert_close(held_out.depths[3:], free.depths[3:], rtol=1e-5, atol=1e-4)
    assert not held_out.depths[:3].any() and free.depths[:3].all()


def test_axes_of_normals() -> None:
    """Normals towards the viewer, right and up point at the camera, along image rows, and to the top."""
    views = make(None, held_out=False)
    estimator = object.__new__(registry.find("monocular", "map-estimator"))
    estimator.depth = None
    for axis in range(3):
        estimator.normals = lambda images, axis=axis: F.one_hot(torch.tensor(axis), 3).float().expand(images.shape)
        found = estimator.maps(views)["normals"][:, 0, 0]
        torch.testing.assert_close(found, views.cameras.c2w[:, :3, axis], rtol=0, atol=1e-5)
        if axis == 2:
            torch.testing.assert_close(found, F.normalize(views.cameras.centers, dim=-1), rtol=0, atol=1e-5)


def test_losses_compare_with_them(folder: Path) -> None:
    """A render with the estimated depth and normals has zero loss; one turned inside out has the maximum."""
    write_estimator(folder / "dpt", SEED)
    write_normals(folder / "marigold", SEED, SIZE)
    views = make({"depth": "dpt", "normals": "marigold"})
    cls = registry.find("reconstruction", "guidance")
    on = Schedule.constant(1.0)
    guidance = cls(cls.Config(views_per_step=1, lambda_mono_depth=on, lambda_mono_normal=on), views=views, device=CPU)
    request = guidance.request(0, torch.Generator().manual_seed(SEED))
    depths, normals, masks = views.depths, views.normals, views.masks
    assert depths is not None and normals is not None
    picture = views.images[3:]
    for sign, least, most in ((1.0, 0.0, 0.01), (-1.0, 1.99, 2.0)):
        render = Render(picture, picture * masks[3:], masks[3:], depth=sign * depths[3:], normal=sign * normals[3:])
        losses = guidance.losses(request, render)
        for name in ("mono_depth", "mono_normal"):
            assert least - 1e-3 <= losses[name].item() <= most + 1e-3, (name, SEED)


@pytest.mark.parametrize(("held_out", "name"), [(True, "003.png"), (False, "000.png")])
def test_depth_that_tells_nothing_is_refused(folder: Path, held_out: bool, name: str) -> None:
    """Flat or non-finite depth of a training view is reported by the view's name; nothing is cached."""
    write_estimator(folder / "flat", SEED, flat=True)
    weights = write_estimator(folder / "broken", SEED) / "model.safetensors"
    state = load_file(weights)
    state["head.head.4.bias"].fill_(torch.nan)
    save_file(state, weights, metadata={"format": "pt"})
    for estimator, fault in (("flat", "flat, so it says nothing"), ("broken", "not finite everywhere")):
        with pytest.raises(InputError, match=rf"^views\.maps\.depth: depth of {name}: {fault}"):
            make({"depth": estimator}, held_out=held_out)
    assert not (cache_folder() / "view-maps").exists()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"depth": "nowhere"}, "estimator: nowhere: no such folder"),
    ({"normals": "."}, r"estimator: \.: cannot load a normal estimator"),
]


@pytest.mark.parametrize(("maps", "message"), BAD)
def test_bad_input(maps: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        make(maps)
    assert "\n" not in str(error.value) and not TinyBall.prompts, "refused before the views are made"
