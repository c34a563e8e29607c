"""ImageDream from its configs: the front ends on +x everywhere; compositions and bad input."""

import csv
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tiny_imagedream import COARSE, FINE, MESH, QUICK, SHORT, write_ball
from torch import Tensor

from liftstudio import assets
from liftstudio.cameras import Cameras, orbit_cameras
from liftstudio.cli import main
from liftstudio.config import parse, read_config
from liftstudio.images import save_image, straight_from_white
from liftstudio.inputs import Inputs
from liftstudio.mesh_io import read_mesh
from liftstudio.priors.training.objects import TexturedObject, make_object, render, split
from liftstudio.priors.training.objects.truth import to_mesh
from liftstudio.registry import find

CPU = torch.device("cpu")
CONFIGS = assets.ROOT / "configs"
TOYS, OFFICIAL, FROM_SPHERE = (
    str(CONFIGS / f"{name}.yaml") for name in ("imagedream-toys", "imagedream", "imagedream-mesh-toys")
)
ELEVATION_DEG, TURN_DEG = 10.0, 35.0  # of the picture


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(tmp_path / "cache"))
    return tmp_path


def toy() -> TexturedObject:
    """An unseen one, with a face in front."""
    return make_object("toy", split(3, "toy", "unseen"))


def around(azimuth_deg: list[float], size: int) -> Cameras:
    azimuths = torch.tensor(azimuth_deg)
    return orbit_cameras(azimuths, torch.full_like(azimuths, ELEVATION_DEG), 3.6, 33.8, size, size)


def save_picture(path: Path) -> Path:
    seen = render(toy(), around([TURN_DEG], 256), supersampling=1)
    save_image(path, torch.cat([straight_from_white(seen.rgb, seen.alpha), seen.alpha], dim=-1)[0])
    return path


def nearest_sides(images: Tensor) -> list[int]:
    """Which of the toy's true sides, at azimuths 0, 90, 180 and 270, is nearest to each image."""
    size = images.shape[1]
    truth = render(toy(), around([0.0, 90.0, 180.0, 270.0], size), supersampling=1).rgb
    return [int((truth - image).abs().mean((1, 2, 3)).argmin()) for image in images]


def test_front_by_sampler_guidance_and_export(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A picture from 35 degrees beside the front; the toy's own front is on +x in its views, its field and its file."""
    save_picture(here / "toy.png")
    options = [
        "image=toy.png",
        "prompt=a toy: 'left' is \"left\", ${not} a key",
        "views.recenter=false",
        f"views.azimuth_deg={TURN_DEG}",
        "views.resolution=64",
        "views.steps=6",
        f"{COARSE}.steps=25",
        f"{COARSE}.guidance.mv.resolution=[20]",
        f"{COARSE}.guidance.mv.resolution_milestones=[]",
        f"{COARSE}.guidance.mv.least_noise=0.6",
        f"{COARSE}.guidance.mv.most_noise=0.9",
        f"{FINE}.steps=8",
        f"{FINE}.geometry.resolution=24",
        f"{FINE}.guidance.mv.resolution=[48]",
    ]
    assert main(["--config", TOYS, "--train", *QUICK, *options]) == 0
    said = capsys.readouterr().out
    assert "reads no text" in said and "small bundled prior" in said
    (run,) = (here / "runs").glob("*/a")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["prompt"].replace("\\", "") == "a toy: 'left' is \"left\", ${not} a key"

    views = Inputs.restore(run / "checkpoints" / "inputs.ckpt").views
    assert views is not None and views.prompt == 4 and views.held_out.tolist() == [True] * 4 + [False]
    torch.testing.assert_close(
        views.cameras.azimuth_deg, torch.tensor([0.0, 90, 180, 270, TURN_DEG]), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(views.cameras.forward[0, :2], torch.tensor([-1.0, 0]) * 0.98481, atol=1e-3, rtol=0)
    assert nearest_sides(views.over(1.0)[:4]) == [0, 1, 2, 3]

    exported, truth = read_mesh(run / "export" / "mesh.glb").vertices, to_mesh(toy()).vertices
    turns = [chamfer(turned(exported, angle), truth) for angle in (0, 90, 180, 270)]
    assert min(turns) == turns[0], turns
    assert main(["--config", str(run / "config.yaml"), "--validate"]) == 0
    (shot,) = (run / "images" / "fine").glob("*.png")
    assert shot.stat().st_size > 0


def turned(points: Tensor, angle_deg: float) -> Tensor:
    """Points [N, 3] turned about z."""
    angle = torch.deg2rad(torch.tensor(float(angle_deg)))
    cosine, sine = angle.cos().item(), angle.sin().item()
    return points @ torch.tensor([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def chamfer(points: Tensor, others: Tensor) -> float:
    distances = torch.cdist(points[:: max(1, len(points) // 2000)], others[:: max(1, len(others) // 2000)])
    return (distances.amin(0).mean() + distances.amin(1).mean()).item()


@pytest.mark.parametrize("is_compared", [True, False])
def test_a_mesh_from_a_sphere_with_and_without_the_picture(here: Path, is_compared: bool) -> None:
    """As the config says, and by the prior alone."""
    save_picture(here / "toy.png")
    options = [
        "image=toy.png",
        "views.recenter=false",
        f"views.azimuth_deg={TURN_DEG}",
        "views.resolution=32",
        "views.steps=1",
        f"{MESH}.steps=3",
        f"{MESH}.geometry.resolution=12",
        f"{MESH}.geometry.grid.log2_table_size=9",
        f"{MESH}.guidance.mv.resolution=[16]",
        f"{MESH}.guidance.picture.resolution=[16]",
    ]
    without = [f"{MESH}.guidance.picture.lambda_rgb=0", f"{MESH}.guidance.picture.lambda_mask=0"]
    assert main(["--config", FROM_SPHERE, "--train", *SHORT, *options, *([] if is_compared else without)]) == 0
    (run,) = (here / "runs").glob("*/a")
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows and all(float(row["mv/sds"]) > 0 for row in rows)
    assert ("picture/rgb" in rows[0] and "picture/mask" in rows[0]) == is_compared
    radii = read_mesh(run / "export" / "mesh.glb").vertices.norm(dim=-1)
    # Three steps of at most 0.005 in distance, and less than half an edge of the grid in place.
    assert abs(radii.mean() - 0.5) < 0.05 and radii.amin() > 0.3 and radii.amax() < 0.7


def test_the_picture_alone_is_compared(here: Path) -> None:
    """What `reconstruction` sees beside score distillation: the prior's four views are held out."""
    options = {
        "image": str(save_picture(here / "toy.png")),
        "prior": {"type": "auto", "weights": "asset://priors/toys"},
        "steps": 1,
        "azimuth_deg": TURN_DEG,
        "held_out": True,
        "resolution": 32,
    }
    source, guidance = find("imagedream-views", "views"), find("reconstruction", "guidance")
    views = source(parse(options, source.Config, "views"), device=CPU).load()
    (seen,) = guidance(guidance.Config(), views=views, device=CPU).reference_cameras.azimuth_deg.tolist()
    assert seen == pytest.approx(TURN_DEG, abs=1e-3)


FAULTS = {
    "image=opaque.png": "opaque.png: the picture is opaque and its background is not one plain colour; give an RGBA",
    f"{COARSE}.guidance.mv.views_per_step=[6]": "views_per_step: wanted a multiple of 4 views, got 6",
    f"{COARSE}.renderer.normal_gradients=false": "renderer.normal_gradients: wanted true, as lambda_orientation acts",
    "system.material.shaded=2": "system.material.shaded: wanted 0 to 1, got 2",
    "system.material.distance=[2,1]": "system.material.distance: wanted the lower value first, got [2.0, 1.0]",
    "views.azimuth_deg=999": "views.azimuth_deg: wanted -180 to 360, got 999",
    f"{COARSE}.guidance.mv.prior.weights=no.pt": "no.pt: no such file or folder",
    f"{COARSE}.guidance.mv.prior.mode=local": "unknown key",
}


@pytest.mark.parametrize("override", FAULTS)
def test_bad_input(
    override: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rembg", None)
    write_ball(here / "ball.png")
    Image.effect_noise((64, 64), 90).convert("RGB").save("opaque.png")
    arguments = ["--config", OFFICIAL, "--train", "image=ball.png", "views.steps=1", *QUICK, override]
    code, errors = main(arguments), capsys.readouterr().err
    assert code == 2 and len(errors.splitlines()) == 1 and errors.startswith("error: "), errors
    assert FAULTS[override] in errors and not (here / "runs").exists()


def test_only_the_views(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four and the picture, as files; nothing is optimised."""
    save_picture(here / "toy.png")
    prompt = "a: 'toy', \"left\" = ${not} #a key"
    arguments = ["image=toy.png", f"prompt={prompt}", "views.steps=1", "device=cpu", "tag=v"]
    assert main(["--config", TOYS, "--views", *arguments]) == 0
    assert repr(prompt) in capsys.readouterr().out, "said to have no effect"
    (run,) = (here / "runs").glob("*/v")
    assert read_config(run / "config.yaml", [])["prompt"] == prompt
    assert sorted(path.name for path in (run / "views").glob("0*.png")) == [f"00{i}.png" for i in range(5)]
    assert not (run / "log.csv").exists()
