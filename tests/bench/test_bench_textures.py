"""The benchmarks of HiFi-123's parts, checked on known cases."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_hifi123 import write_tiny_folder

from bench import depth_prior, texture_refinement, textures, view_enhancement
from bench.textures import Judge, Pictures
from bench.unseen import canonical
from liftstudio.core.assets import input_path
from liftstudio.core.config import ComponentSpec
from liftstudio.core.schedules import Schedule
from liftstudio.methods.hifi123 import captions
from liftstudio.methods.hifi123.prior import DepthPrior
from liftstudio.methods.hifi123.rgnv import RGNV
from liftstudio.run.config import RunConfig, load_run_config
from liftstudio.synthetic import render
from liftstudio.training.rigs import DISTANCE, FOV_DEG

pytestmark = pytest.mark.usefixtures("small_covering_views")

SEED = fresh_seed(__name__, bits=24)
FINE = "system.stages.fine"
NUMBER = SEED % 50


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    write_tiny_folder(folder / "depth", SEED)
    return folder


@pytest.fixture(autouse=True)
def _here(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written)
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(written / "cache"))


def scene(size: int = 48) -> tuple[Pictures, Pictures]:
    cameras = textures.scene_cameras(DISTANCE, FOV_DEG, size)
    return Pictures.of(render(textures.textured(NUMBER), cameras))


def test_perfect_views_are_perfect_and_degraded_ones_are_not() -> None:
    picture, truth = scene()
    judge = Judge(None, None)
    assert "not VGG" in judge.names["contextual"] and "not CLIP" in judge.names["similarity"]
    perfect = judge.compare(truth, truth, picture)
    views = textures.degraded(truth, torch.Generator().manual_seed(SEED))
    worse = judge.compare(views, truth, picture)
    assert perfect.keys() == worse.keys() == textures.DIGITS.keys()
    # SSIM is a ratio of differences of float32 sums, which cancel where an image is uniform.
    assert perfect["psnr"] == math.inf and perfect["ssim"] == pytest.approx(1, abs=1e-4)
    assert 10 < worse["psnr"] < 30, f"object {NUMBER}, seed {SEED}"
    assert worse["ssim"] < 0.99 and worse["contextual, truth"] > perfect["contextual, truth"]
    assert torch.equal(views.masks, truth.masks)
    assert ((views.images == 1) | (truth.masks > 0)).all()  # outlines stay
    # The object is measured, not the background.
    beside = Pictures(torch.where(truth.masks > 0.5, truth.images, 0.3), truth.masks)
    assert judge.compare(beside, truth, picture)["psnr"] == math.inf


def test_colours_change_by_view_or_alike() -> None:
    flat = Pictures(torch.full((3, 32, 32, 3), 0.5), torch.ones(3, 32, 32, 1))
    alike, each = (textures.degraded(flat, torch.Generator().manual_seed(SEED), alike=a) for a in (True, False))
    assert torch.equal(alike.images[0], alike.images[1]) and not torch.allclose(each.images[0], each.images[1])
    for views in (alike, each):  # a gain of 0.8 to 1.2 and an offset of 0.1
        assert (views.images - 0.5).abs().max() <= 0.2 + 1e-5
        assert torch.allclose(views.images.std((1, 2)), torch.zeros(3, 3), atol=1e-6)


def test_objects_are_toys_and_composites_in_turns_with_patterns() -> None:
    for number, kind in ((0, "toy"), (1, "composite"), (2, "toy")):
        plain = canonical(kind, number // 2)  # type: ignore[arg-type]
        assert np.array_equal(textures.textured(number).faces, plain.faces)
    numbers = range(NUMBER, NUMBER + 4)
    assert all((textures.textured(number).patterns > 0).all() for number in numbers)  # none is plain
    assert len({textures.textured(number).vertices.tobytes() for number in numbers}) == 4


def test_tables_have_means_and_paired_changes() -> None:
    rows = [
        {"a": dict.fromkeys(textures.DIGITS, value), "b": dict.fromkeys(textures.DIGITS, value + 1) | {"cost": 2.0}}
        for value in (1.0, 3.0)
    ]
    table = textures.table_of(rows, "", "a", {"cost": 1})
    cells = [list(column.cells) for column in table.columns]
    assert cells[1] == ["2.00 ± 1.00", "3.00 ± 1.00"] and cells[6] == ["", "2.0 ± 0.0"]
    assert [column[1] for column in cells[-3:]] == ["1.00 ± 0.00", "1.000 ± 0.000", "1.000 ± 0.000"]
    assert [column[0] for column in cells[-3:]] == ["", "", ""]
    data = json.loads(json.dumps(textures.summary(rows, "a")))
    assert data["b"]["psnr"] == {"value": [3.0, 1.0], "change": [1.0, 0.0]}
    assert data["b"]["cost"] == {"value": [2.0, 0.0]}


def enhancer(**options: Any) -> Any:
    """The plug-in."""
    prior = DepthPrior.Config("depth")
    settings = {
        "prior": ComponentSpec("depth-prior", "sd2-depth", prior),
        "steps": 10,
        "levels": 4,
        "prompt": "owl",
        **options,
    }
    return RGNV(RGNV.Config(**settings), device=torch.device("cpu"))


def test_every_setting_enhances_views_differently() -> None:
    rgnv = enhancer(guidance_scale=3.0, start_step=1, last_layers=3)
    picture, truth, found = view_enhancement.repaint_all(rgnv, NUMBER)
    again = view_enhancement.repaint_all(rgnv, NUMBER)[2]
    ways = [view_enhancement.PLUG_IN, *view_enhancement.WAYS]
    assert [*found] == ["degraded", view_enhancement.CODED, *ways, view_enhancement.CEILING]
    for name, views in found.items():
        assert views.images.shape == truth.images.shape and torch.equal(views.images, again[name].images), name
        assert (views.images[truth.masks.expand_as(views.images) == 0] == 1).all()
        row = Judge(None, None).compare(views, truth, picture)
        assert all(math.isfinite(value) for value in row.values()), f"{name}, object {NUMBER}, seed {SEED}"
    pictures = [views.images for views in found.values()]
    for i, j in torch.combinations(torch.arange(len(pictures))).tolist():
        assert not torch.equal(pictures[i], pictures[j]), f"{[*found][i]} and {[*found][j]} are the same"
    # The plug-in's depth is the mask's; at outlines it has the views' own colours.
    solid = (truth.masks == 1).expand_as(truth.images)
    plug_in, by_mask = (found[name].images[solid] for name in (view_enhancement.PLUG_IN, "depth of the mask alone"))
    torch.testing.assert_close(plug_in, by_mask, rtol=0, atol=1e-3, msg=f"object {NUMBER}, seed {SEED}")


def test_view_enhancement_from_its_command_line(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options and defaults are those of the plug-in."""
    given = {"levels": 3, "last_layers": 2, "start_step": 1, "prompt": "owl", "guidance_scale": 2.0}
    options = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    monkeypatch.setattr("sys.argv", ["bench", "--prior", "depth", "--count", "1", "--json", "out.json", *options])
    view_enhancement.main()
    found, shipped = json.loads((written / "out.json").read_text()), RGNV.Config()
    assert given.keys() | {"steps"} == view_enhancement.OPTIONS.keys()
    for name in view_enhancement.OPTIONS:
        assert found["settings"][name] == given.get(name, getattr(shipped, name)), name
    assert view_enhancement.PLUG_IN in found["ways"] and len(found["objects"]) == 1


def test_inversion_with_and_without_depth() -> None:
    """Every kind of depth gives another inversion; the autoencoder is the upper bound; gains are over no depth."""
    prior = enhancer().prior
    sample = depth_prior.unseen("composite", NUMBER, prior.resolution)
    row, pictures = depth_prior.measure_object(prior, sample, 10, 4)
    assert [*row] == [depth_prior.CEILING, "depth", "mask alone", depth_prior.BASELINE]
    for i, j in torch.combinations(torch.arange(len(pictures))).tolist():
        one, other = ([*pictures.values()][index] for index in (i, j))
        assert one.shape == (depth_prior.VIEWS, 32, 32, 3) and not torch.equal(one, other), f"{NUMBER}, seed {SEED}"
    images = pictures["picture"]
    truth = depth_prior.compare(images, images, sample.images[..., 3:])
    assert truth["psnr"] == truth["psnr on the object"] == math.inf
    grey = sample.images[..., 3:] == 0
    beside = depth_prior.compare(torch.where(grey, 0.3, images), images, sample.images[..., 3:])
    assert beside["psnr on the object"] == math.inf and beside["psnr"] < math.inf
    cells = [list(column.cells) for column in depth_prior.table_of([row, row], "").columns]
    assert cells[0] == [*row] and cells[-1][-1] == "" and cells[-1][0].endswith("± 0.00")
    means = depth_prior.summary([row])
    assert all(means[name]["psnr"][0] == pytest.approx(row[name]["psnr"]) for name in row)


def config_of(*overrides: str) -> RunConfig:
    return load_run_config(
        texture_refinement.CONFIG,
        [
            "system.stages.coarse.steps=6",
            "system.stages.coarse.geometry.grid.levels=6",
            "system.stages.coarse.renderer.grid_resolution=32",
            "system.stages.coarse.renderer.samples_across=32",
            f"{FINE}.steps=2",
            f"{FINE}.geometry.resolution=16",
            f"{FINE}.guidance.texture.prior.weights=depth",
            f"{FINE}.guidance.texture.steps=10",
            f"{FINE}.guidance.texture.levels=4",
            f"{FINE}.guidance.texture.timesteps=[100,200]",
            *overrides,
        ],
    )


def test_refinement_from_degraded_views_to_rows(written: Path) -> None:
    """Every setting refines the same coarse result and keeps its shape."""
    rows, pictures = texture_refinement.measure_object(NUMBER, config_of(), "degraded", Judge(None, None))
    assert [*pictures] == ["picture", "truth", *rows]
    assert len(rows) == 4 and rows["RGSD"]["unet evaluations"] > 1 == rows["SDS"]["unet evaluations"]
    for name, row in rows.items():
        assert all(math.isfinite(value) for value in row.values()), f"{name}, object {NUMBER}, seed {SEED}"
        assert torch.equal(pictures[name].masks, pictures["no refine stage"].masks)
        assert ("seconds per step" in row) == (name != "no refine stage")
    ways = [pictures[name].images for name in rows]
    for i, j in torch.combinations(torch.arange(len(ways))).tolist():
        assert not torch.equal(ways[i], ways[j])
    key = texture_refinement.coarse_key(texture_refinement.by_degraded_views(config_of()), NUMBER)
    assert (written / "cache" / "coarse" / f"{key}.ckpt").is_file()


def test_the_cache_key_of_the_coarse_result() -> None:
    """Everything but the last stage's guidance and steps; the object, and the source of its views."""
    key = texture_refinement.coarse_key(config_of(), NUMBER)
    refinement = f"{FINE}.steps=9", f"{FINE}.guidance.texture.lambda_rgsd=0.3"
    assert key == texture_refinement.coarse_key(config_of(*refinement), NUMBER)
    others = [config_of(option) for option in ("seed=1", "system.stages.coarse.steps=13", "views.fov_deg=30")]
    others.append(texture_refinement.by_degraded_views(config_of()))
    keys = [texture_refinement.coarse_key(other, NUMBER) for other in others]
    assert len({key, texture_refinement.coarse_key(config_of(), NUMBER + 1), *keys}) == 6


def test_the_priors_weights_change_the_coarse_result(written: Path) -> None:
    """Under the same name."""
    toys = input_path("asset://priors/toys")
    path = Path(shutil.copy(next(toys.glob("*.safetensors")), written / "toys.safetensors"))
    config = config_of("prior.weights=toys.safetensors")
    key = texture_refinement.coarse_key(config, NUMBER)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert texture_refinement.coarse_key(config, NUMBER) != key


def test_captions_are_of_the_object() -> None:
    """For both kinds of distillation, in words from the model's training; the coarse result is reused."""
    bare = config_of(f"{FINE}.guidance.texture.prior.weights=asset://priors/depth-tiny")  # captions suit its encoder
    config = texture_refinement.captioned(bare, NUMBER)
    settings = texture_refinement.settings_of(config)
    guidance = [settings[name].system.options.stages["fine"].guidance for name in ("RGSD", "SDS")]
    prompt = guidance[0]["texture"].options.prompt
    assert prompt == guidance[1]["texture"].options.prompt and [*guidance[0]] == [*guidance[1]] == [
        "picture",
        "texture",
    ]
    obj = textures.textured(NUMBER)
    assert prompt.split()[-1] == ("object" if NUMBER % 2 else "toy")
    assert captions.color_name(*obj.colors[0, 0]) in prompt.split() and len(captions.caption_tokens(prompt)) == 77
    assert texture_refinement.coarse_key(config, NUMBER) == texture_refinement.coarse_key(bare, NUMBER)


def test_settings_differ_only_in_guidance() -> None:
    config = config_of(f"{FINE}.guidance.texture.prompt=owl", f"{FINE}.guidance.texture.lambda_rgsd=[0, 1, 2, 10]")
    settings = texture_refinement.settings_of(config)
    stages = {name: setting.system.options.stages["fine"] for name, setting in settings.items()}
    assert stages["picture alone"].guidance.keys() == {"picture"}
    assert all(stage.guidance["picture"] == stages["RGSD"].guidance["picture"] for stage in stages.values())
    sds, rgsd = (stages[name].guidance["texture"] for name in ("SDS", "RGSD"))
    assert (sds.type, rgsd.type) == ("depth-sds", "hifi123-rgsd")
    assert sds.options.prior == rgsd.options.prior and sds.options.prompt == "owl"
    weight = texture_refinement.SDS_WEIGHT
    assert sds.options.lambda_sds == Schedule(((0, weight), (10, 2 * weight)))
    assert config.system.options.stages["fine"] == stages["RGSD"], "the config itself is left alone"
