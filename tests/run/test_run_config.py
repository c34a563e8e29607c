"""The single prior of a run, and its required options."""

import re
from pathlib import Path
from typing import Any

import pytest

from liftstudio.core import assets
from liftstudio.core.config import to_plain, write_config
from liftstudio.core.errors import InputError
from liftstudio.run.config import deciding_options, load_run_config, load_without_input

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


def test_several_pictures_replace_the_configs_own() -> None:
    path = assets.packaged("configs") / "sv3d-masked-sds.yaml"
    config = load_run_config(path, ["images.front=owl.png", "images.back=b.png"])
    assert config.views is not None and not config.image and config.tag.startswith("owl-")
    assert config.views.options.images == {"front": "owl.png", "back": "b.png"} and not config.views.options.image
    whole = load_run_config(path, ["images={front: owl.png, 120: b.png}"])
    assert whole.images == {"front": "owl.png", "120": "b.png"}
    between = load_run_config(path, ["images.front=owl.png", "images.22.5=b.png", "images.-90=c=d.png"])
    assert between.images == {"front": "owl.png", "22.5": "b.png", "-90": "c=d.png"}
    with pytest.raises(InputError, match=r"views\.image, images: both given"):
        load_run_config(path, ["images.front=a.png", "image=b.png"])
    with pytest.raises(InputError, match=r"images\.backk: expected .*'back'"):
        load_run_config(path, ["images.front=a.png", "images.backk=b.png"])
    with pytest.raises(InputError, match=r"nothing in .* refers to \$\{images\}"):
        load_run_config(assets.packaged("configs") / "mvdream.yaml", ["images.front=a.png"])


def test_several_pictures_replace_a_picture_that_is_left_to_the_user(tmp_path: Path) -> None:
    text = (assets.packaged("configs") / "sv3d-masked-sds.yaml").read_text()
    path = tmp_path / "own.yaml"
    path.write_text(re.sub(r"(?m)^image: .*$", "image: ???", text))
    for load in (load_run_config, load_without_input):
        config = load(path, ["images.front=a.png", "images.back=b.png"])
        assert config.views is not None and config.images == {"front": "a.png", "back": "b.png"} and not config.image
    assert load_without_input(path, []).image == "none"
    path.write_text(path.read_text().replace("images: {}", "images: ???"))
    assert load_without_input(path, []).images == {} and load_run_config(path, ["images.front=a.png"]).images


def test_every_config_from_a_picture_takes_several() -> None:
    for path in assets.packaged("configs").glob("*.yaml"):
        text = path.read_text()
        assert ("${image}" in text) == ("${images}" in text), path
