"""ImageDream's and MVDream's official configs with their networks in miniature, from start to file."""

import re
from pathlib import Path

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_imagedream import COARSE, FINE, QUICK, write_tiny_imagedream, write_tiny_text
from helpers.tiny_prior import write_ball

from liftstudio.cli.command_line import main
from liftstudio.core import assets
from liftstudio.data.images import load_image
from liftstudio.data.mesh_io import read_mesh
from liftstudio.run.inputs import Inputs

pytestmark = pytest.mark.usefixtures("small_covering_views", "coarse_fusion")

SEED = fresh_seed(__name__)
OFFICIAL, TEXT_ONLY = (str(assets.packaged("configs") / f"{name}.yaml") for name in ("imagedream", "mvdream"))
MV = f"{COARSE}.guidance.mv"
SMALL = [
    "views.steps=2",
    "views.resolution=32",
    f"{COARSE}.steps=3",
    f"{COARSE}.geometry.grid.finest_resolution=64",
    f"{COARSE}.regularizers.lambda_orientation=0.01",
    "prior.text_encoder=text",
    "system.material.shaded=1",
    f"{FINE}.steps=2",
    f"{FINE}.geometry.resolution=12",
    f"{FINE}.guidance.mv.resolution=[16]",
    "export.min_component_area=0",
]


@pytest.mark.parametrize("name", ["tiny-ipmv", "tiny-ipmv-local"])
def test_official_networks_from_start_to_file(here: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The official config with other weights, through all its resolutions, and with an overlong prompt."""
    write_tiny_imagedream(here / f"{name}.safetensors", seed=SEED)
    write_tiny_text(here / "text", seed=SEED)
    write_ball(here / "ball.png")
    options = [
        "image=ball.png",
        "prompt=a red ball",
        f"prior.weights={name}.safetensors",
        "prior.type=imagedream",
        f"{MV}.resolution=[8,12,16]",
        f"{MV}.resolution_milestones=[1,2]",
        f"{COARSE}.guidance.picture={{type: reconstruction, resolution: [16]}}",
    ]
    assert main(["--config", OFFICIAL, "--train", *QUICK, *SMALL, *options]) == 0
    said = capsys.readouterr()
    assert "prompt: too long, only the first 10 tokens" in said.out + said.err
    mode = "local" if "local" in name else "pixel"
    assert f"guidance: prior ImageDream ({mode}, {name}.safetensors)" in said.out
    (run,) = (here / "runs").glob("*/a")
    rows = (run / "log.csv").read_text().splitlines()
    assert {"mv/sds", "mv/orientation", "mv/sparsity", "picture/rgb", "normal_consistency"} <= set(rows[0].split(","))
    assert len(read_mesh(run / "export" / "mesh.glb").faces) and (run / "views" / "contact_sheet.png").is_file()


def test_of_a_text_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MVDream's four views and a mesh, without an input image."""
    write_tiny_imagedream(here / "tiny-4view.safetensors", seed=SEED, image=False)
    write_tiny_text(here / "text", seed=SEED)
    options = ["prompt=a: 'b' \"c\"", "prior.weights=tiny-4view.safetensors", *QUICK, *SMALL]
    assert main(["--config", TEXT_ONLY, "--views", *options, "tag=views"]) == 0
    (views,) = (here / "runs").glob("*/views/views")
    pictures = [load_image(path)[0] for path in sorted(views.glob("0*.png"))]
    assert len(pictures) == 4 and not torch.equal(pictures[0], pictures[1])

    coarse = [f"{MV}.resolution=[8,16]", f"{MV}.resolution_milestones=[1]", f"{MV}.views_per_step=[8,4]"]
    assert main(["--config", TEXT_ONLY, "--train", *options, *coarse]) == 0
    assert "guidance: prior MVDream (text, tiny-4view.safetensors)" in capsys.readouterr().out
    (run,) = (here / "runs").glob("*/a")
    assert {"mv/sds", "mv/orientation"} <= set((run / "log.csv").read_text().splitlines()[0].split(","))
    assert len(read_mesh(run / "export" / "mesh.glb").faces) and (run / "views" / "contact_sheet.png").is_file()
    kept = Inputs.restore(run / "checkpoints" / "inputs.ckpt").views
    assert kept is not None and kept.held_out.tolist() == [True] * 4 and kept.input_view is None


WRONG = {
    "no file": ([], "sd-v2.1-base-4view.pt: no such file or folder; .*huggingface.co/MVDream/MVDream.*licences"),
    "picture": (["image=ball.png"], "'image=ball.png' has no effect"),
    "toys": (
        ["prior={type: auto, weights: asset://priors/toys}"],
        "makes views from an input image, but there is none",
    ),
    "compared": (
        ["prior.weights=tiny-4view.safetensors", f"{COARSE}.guidance.picture=reconstruction"],
        "'reconstruction' needs reference views, but all of them are held out",
    ),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_a_text_where_a_picture_is_needed(
    here: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_imagedream(here / "tiny-4view.safetensors", seed=SEED, image=False)
    write_tiny_text(here / "text", seed=SEED)
    code = main(["--config", TEXT_ONLY, "--train", *options, *QUICK, *([] if "toys" in str(options) else SMALL)])
    errors = capsys.readouterr().err
    assert code == 2 and errors.count("error: ") == 1 and re.search(f"error: .*{message}", errors), errors
    assert not (here / "runs").exists()


def test_a_picture_where_a_text_is_needed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_imagedream(here / "tiny-4view.safetensors", seed=SEED, image=False)
    write_tiny_text(here / "text", seed=SEED)
    write_ball(here / "ball.png")
    prior = [
        "prior.type=imagedream",
        "prior.weights=tiny-4view.safetensors",
        "prior.text_encoder=text",
    ]
    assert main(["--config", OFFICIAL, "--views", "image=ball.png", "prompt=a ball", "views.steps=1", *prior]) == 2
    assert "makes views from text alone, but there is an input image" in capsys.readouterr().err


def picture_options(here: Path, name: str, mode: str) -> list[str]:
    """Return the options that the errors advise, for weights of that name."""
    write_tiny_imagedream(here / f"{name}.safetensors", seed=SEED)
    write_tiny_text(here / "text", seed=SEED)
    write_ball(here / "ball.png")
    prior = {"type": "imagedream", "mode": mode, "weights": f"{name}.safetensors", "text_encoder": "text"}
    return ["image=ball.png", "views.steps=1", "device=cpu", *(f"prior.{key}={prior[key]}" for key in prior)]


def test_a_mode_that_is_not_the_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error if the file has a published name."""
    options = picture_options(here, "sd-v2.1-base-4view-ipmv", "local")
    for command in ("--train", "--views"):
        assert main(["--config", OFFICIAL, command, *options, "prompt=a ball", *QUICK]) == 2
        errors = capsys.readouterr().err
        assert errors.count("error: ") == 1 and "mode: expected pixel, the mode of sd-v2.1" in errors
    assert not (here / "runs").exists()


def test_warnings_are_repeated_in_every_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing captions and a mode that overrides the name's hint are warned of, also when views are cached."""
    options = picture_options(here, "tiny-ipmv", "local")
    for tag in ("made", "cached"):
        assert main(["--config", OFFICIAL, "--views", *options, f"tag={tag}"]) == 0
        said = capsys.readouterr()
        assert ("from the cache" in said.out) == (tag == "cached")
        for doubt in ("no prompt; a short description of the object", "the name of tiny-ipmv.safetensors su"):
            assert said.err.count(doubt) == 1, said.err
