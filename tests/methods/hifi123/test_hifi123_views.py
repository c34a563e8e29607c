"""RGNV on generated views: repaints inside masks, keeps the input image, is cached, and reports errors early."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_hifi123 import TOKENS, tiny_unet, write_estimator, write_marigold, write_tiny_folder
from helpers.tiny_prior import TinyBall, write_ball
from safetensors.torch import load_file, save_file
from torch import Tensor

from liftstudio.cli import package_prior as package
from liftstudio.core import registry
from liftstudio.core.cache import cache_folder
from liftstudio.core.config import parse
from liftstudio.core.errors import InputError
from liftstudio.data.images import resize_lanczos
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.methods.hifi123 import checkpoint, ddim, model, monocular, rgnv
from liftstudio.methods.hifi123.depth import mask_channel
from liftstudio.priors.samplers import scaled_linear_alpha_bars

SEED = fresh_seed(__name__)
CPU = torch.device("cpu")
SIZE = 32  # pixels across the views, the resolution of the tiny model
BYTE = 1 / 255


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("hifi123") / "tiny", SEED)


@pytest.fixture(autouse=True)
def folder(written: Path, ball_folder: Path) -> Path:
    """An image, the prior's weights, and a copy of the model, to be damaged."""
    return Path(shutil.copytree(written, ball_folder / "tiny"))


def source(name: str = "sv3d-views", enhance: dict[str, Any] | None = None, **options: Any) -> Any:
    """Return a source of the ball's views; `enhance`: options of rgnv besides those of a quick run, None: none."""
    data: dict[str, Any] = {"image": "ball.png", "steps": 2, "resolution": SIZE, "elevation_deg": 10, **options}
    data["prior"] = {"type": "tiny-ball", "weights": "ball.safetensors"}
    data = ({"orbit": {"frames": 4}} if name == "sv3d-views" else {"count": 3, "instances": 1}) | data
    if enhance is not None:
        prior = {"type": "sd2-depth", "weights": "tiny"} | enhance.pop("prior", {})
        data["enhance"] = {"type": "rgnv", "steps": 100, "levels": 4, "last_layers": 2, **enhance, "prior": prior}
    cls = registry.find(name, "views")
    return cls(parse(data, cls.Config, "views"), device=CPU)


def make(name: str = "sv3d-views", enhance: dict[str, Any] | None = None, **options: Any) -> ReferenceViews:
    return source(name, enhance, **options).load()


@pytest.fixture
def no_camera_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the camera check of the ball's prior, which is as strict as SV3D's."""
    monkeypatch.setattr(TinyBall, "check_cameras", lambda *_: None)


def generated(views: ReferenceViews) -> Tensor:
    return torch.tensor([index != views.input_view for index in range(len(views))])


@pytest.mark.usefixtures("no_camera_check")
@pytest.mark.parametrize("name", ["sv3d-views", "syncdreamer-views"])
@pytest.mark.parametrize("resolution", [SIZE, 48])
def test_views_change_inside_their_masks_and_the_picture_stays(name: str, resolution: int) -> None:
    plain, enhanced = make(name, resolution=resolution), make(name, {}, resolution=resolution)
    assert plain.input_view is not None and enhanced.input_view == plain.input_view and enhanced.names == plain.names
    assert torch.equal(enhanced.masks, plain.masks) and torch.equal(enhanced.cameras.c2w, plain.cameras.c2w)
    assert torch.equal(enhanced.images[plain.input_view], plain.images[plain.input_view])
    change, solid = (enhanced.images - plain.images).abs(), plain.masks == 1
    assert (change * (plain.masks == 0)).max() == 0, f"beside the object, seed {SEED}"
    for index in generated(plain).nonzero().flatten():
        assert change[index][solid[index, ..., 0]].mean() > 2 * BYTE, f"view {index} is as before, seed {SEED}"
    assert enhanced.images.min() >= 0 and enhanced.images.max() <= 1


@pytest.mark.parametrize("start_step", [0, 2])
def test_the_result_is_that_of_the_functions(start_step: int) -> None:
    """The plug-in equals the pure functions on all views at once, where the object is opaque."""
    options = {"prompt": "owl", "start_step": start_step, "guidance_scale": 3.0, "prior": {"chunk": 2}}
    plain, enhanced = make(), make(enhance=options)
    parts = checkpoint.open_folder("tiny")
    unet, vae, tower = (part.load(torch.float32, CPU) for part in (parts.unet, parts.vae, parts.text))
    prompts = model.Prompts(*(model.embed_text(parts.tokenizer, tower, t) for t in ("", "owl")))
    grid = ddim.TimestepGrid.of(scaled_linear_alpha_bars(), 100)
    form = rgnv.Form(4, 4 - start_step, 3.0, 2)
    latents = model.encode(unet, vae, plain.over(0.5))
    depths = torch.stack([resize_lanczos(mask, SIZE, SIZE) for mask in plain.masks])
    depths = mask_channel(depths, (8, 8))
    last = latents[-1:], depths[-1:]
    reference = rgnv.prepare_reference(unet, *last, prompts.empty, grid, form)
    found = rgnv.enhance(unet, latents[:-1], depths[:-1], prompts, reference, grid, form)
    solid = (plain.masks[:-1] == 1)[..., 0]
    wanted, got = model.decode(vae, found)[solid], enhanced.images[:-1][solid]
    # Half an 8-bit step of the cache, and rounding differences between batch sizes.
    torch.testing.assert_close(got, wanted, rtol=0, atol=0.51 * BYTE + 1e-4, msg=f"seed {SEED}")


def test_every_view_is_repainted_by_the_nearest_picture() -> None:
    plain, enhancer = make(orbit={"frames": 6}), source(enhance={}).config.enhance.build(device=CPU)
    both = replace(plain, input_views=(5, 2))  # at 360 and 180 degrees
    assert both.nearest_input().tolist() == [5, 2, 2, 2, 5, 5]
    own = torch.zeros(8, 8, 4)  # not used
    front, back, repainted = (enhancer.repaint(v, own) for v in (plain, replace(plain, input_views=(2,)), both))
    torch.testing.assert_close(repainted[[0, 4]], front[[0, 4]], atol=1e-3, rtol=0)
    torch.testing.assert_close(repainted[[1, 3]], back[[1, 3]], atol=1e-3, rtol=0)
    assert (front - back)[[0, 1, 3, 4]].abs().max() > BYTE


@pytest.mark.parametrize(("start_step", "prompt"), [(0, ""), (3, "owl"), (4, "")])
@pytest.mark.parametrize("stored", [True, False])
def test_progress_follows_the_network_calls(
    start_step: int, prompt: str, stored: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It reaches 100 % at the last call, however many there are."""
    options = {"start_step": start_step, "prompt": prompt, "stored_reference": stored, "prior": {"chunk": 2}}
    with caplog.at_level(logging.INFO, "liftstudio"):
        make(enhance=options)
    said = [text for text in caplog.messages if text.endswith(" %") and text.startswith("enhance: ")]
    assert len(said) > 5 and said[-1] == "enhance: 100 %" and len(set(said)) == len(said)
    assert all(int(text.split()[1]) <= 100 for text in said)


def test_a_reference_that_is_sampled_gives_other_views() -> None:
    """With long steps, so that sampling drifts away from inversion."""
    far = {"steps": 10, "levels": 8}
    stored, sampled = make(enhance={**far}), make(enhance={**far, "stored_reference": False})
    for views in (stored, sampled):
        assert views.images.isfinite().all() and views.images[generated(views)].std() > BYTE
    assert (stored.images - sampled.images)[generated(stored)].abs().max() > 2 * BYTE, f"seed {SEED}"
    assert entries() == 2


@pytest.mark.parametrize(("resolution", "count"), [(SIZE, 0), (48, 1)])
def test_lost_detail_is_logged_once(resolution: int, count: int, caplog: pytest.LogCaptureFixture) -> None:
    make(enhance={}, resolution=resolution)
    said = [text for text in caplog.messages if text.startswith("enhance: views of ")]
    assert said == count * ["enhance: views of 48x48 pixels are reduced to the model's 32x32; finer detail is lost"]


def test_overflow_is_an_error(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["conv_out.bias"].fill_(torch.inf)
    save_file(state, path)
    with pytest.raises(InputError, match=r"non-finite values; try views\.enhance\.prior\.precision=float32") as error:
        make(enhance={})
    assert "\n" not in str(error.value) and entries() == 0


def entries() -> int:
    return len(list((cache_folder() / "enhanced-views").glob("*.ckpt")))


def test_a_second_run_comes_from_the_cache(caplog: pytest.LogCaptureFixture) -> None:
    first = make(enhance={})
    shutil.copytree("tiny", "elsewhere")
    with caplog.at_level(logging.INFO, "liftstudio"):
        again = make(enhance={"prior": {"weights": "elsewhere", "chunk": 1}})
    assert torch.equal(first.images, again.images) and entries() == 1 and len(TinyBall.prompts) == 1
    assert "enhanced-views: from the cache" in caplog.text
    uncached = make(enhance={}, cache=False)
    assert torch.equal(first.images, uncached.images) and len(TinyBall.prompts) == 2


CHANGES: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "owl"},
    "steps": {"steps": 50},
    "levels": {"levels": 5},
    "start": {"start_step": 1},
    "stored": {"stored_reference": False},
    "layers": {"last_layers": 3},
    "guidance": {"guidance_scale": 4.0},
    "resolution": {"resolution": 28},
    "precision": {"prior": {"precision": "bfloat16"}},
}


@pytest.mark.parametrize("change", [*CHANGES, "unet", "vae", "text_encoder", "tokenizer", "merges"])
def test_the_cache_key_has_all_that_determines_the_result(change: str, folder: Path) -> None:
    def fingerprint(options: dict[str, Any]) -> Any:
        return source(enhance=options).config.enhance.build(device=CPU).fingerprint()

    first = fingerprint({})
    if change == "merges":
        (folder / "tokenizer" / "merges.txt").write_text("#version: 0.3\n")
    elif change not in CHANGES:
        path = max((folder / change).iterdir(), key=lambda file: file.stat().st_size)
        content = path.read_bytes()
        spaced = content.replace(b'": ', b'":  ', 1)  # the same vocabulary
        path.write_bytes(spaced if change == "tokenizer" else content[:-1] + bytes([content[-1] ^ 1]))
    assert fingerprint(CHANGES.get(change, {})) != first


def test_changed_options_and_views_are_enhanced_again() -> None:
    """The prior's own views are sampled again only if their own options change."""
    make(enhance={})
    make(enhance={"levels": 3})
    assert entries() == 2 and len(TinyBall.prompts) == 1
    write_ball(Path("ball.png"), elevation_deg=40)
    make(enhance={})
    assert entries() == 3 and len(TinyBall.prompts) == 2


def test_depth_from_an_estimator(folder: Path) -> None:
    """Estimated depth, 1 for near, changes the result, and so do other weights of the estimator."""
    by_mask = make(enhance={})
    write_estimator(Path("dpt"), SEED)
    by_depth = make(enhance={"estimator": "dpt"})
    assert (by_mask.images - by_depth.images)[generated(by_mask)].abs().max() > BYTE, f"seed {SEED}"
    estimator = monocular.DepthEstimator("dpt", device=CPU)
    images = torch.randint(256, (2, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(SEED)) / 255
    values = estimator(images)
    assert estimator.meaning == "disparity" and values.shape == (2, 32, 32, 1) and values.dtype == torch.float32
    from transformers import DPTForDepthEstimation

    pixels = 2 * images.permute(0, 3, 1, 2) - 1  # its mean and standard deviation are 0.5
    with torch.no_grad():
        wanted = DPTForDepthEstimation.from_pretrained("dpt")(pixels).predicted_depth
    torch.testing.assert_close(values[..., 0], wanted, rtol=1e-4, atol=1e-3, msg=f"seed {SEED}")
    write_estimator(Path("dpt"), SEED, flat=True)
    with pytest.raises(InputError, match="depth of view 0: flat, so it says nothing about the shape"):
        make(enhance={"estimator": "dpt"})


def test_depth_from_marigold() -> None:
    """A random diffusers pipeline is recognised by its folder; its noise is always the same."""
    generator = torch.Generator().manual_seed(SEED)
    write_marigold(Path("marigold"), SEED, "depth", SIZE)
    estimator = monocular.DepthEstimator("marigold", device=CPU)
    images = torch.rand(2, SIZE, SIZE, 3, generator=generator)
    values = estimator(images)
    assert estimator.meaning == "depth" and values.shape == (2, SIZE, SIZE, 1)
    assert torch.equal(values, estimator(images)) and not torch.equal(values[0], values[1])


def no_self_attention(folder: Path) -> None:
    generator = torch.Generator().manual_seed(SEED)
    tiny_unet(generator, only_cross_attention=(False, True)).save_pretrained(folder / "unet")


def no_unet(folder: Path) -> None:
    (folder / "unet" / "config.json").unlink()


def untouched(folder: Path) -> None:
    pass


BAD: dict[str, tuple[dict[str, Any], Callable[[Path], None], str]] = {
    "no folder": ({"prior": {"weights": "nowhere"}}, untouched, "nowhere: no such folder; stable-diffusion-2-depth is"),
    "no network": ({}, no_unet, r"unet/config\.json: no such file or folder; stable-diffusion-2"),
    "long prompt": ({"prompt": "a" * TOKENS}, untouched, f"prompt: expected at most {TOKENS - 2} tokens, got {TOKENS}"),
    "many layers": (
        {"last_layers": 8},
        untouched,
        "last_layers: expected 1 to 7, the UNet's self-attention layers",
    ),
    "cross-attention": (
        {"last_layers": 7},
        no_self_attention,
        r"layer \d of the UNet .* has no self-attention",
    ),
    "large": ({"resolution": 64}, untouched, "resolution: expected at most 32x32 pixels, got 64x64"),
    "small": ({"resolution": 8}, untouched, "resolution: expected 16 or more, got 8"),
    "odd": ({"resolution": 30}, untouched, "resolution: expected multiples of 4 pixels, got 30x30"),
    "levels": ({"levels": 101}, untouched, r"views\.enhance\.levels: expected 2 to 100, got 101"),
    "start": ({"start_step": 5}, untouched, r"views\.enhance\.start_step: expected 0 to 4, got 5"),
    "chunk": ({"prior": {"chunk": -1}}, untouched, r"views\.enhance\.prior\.chunk: expected 0 or more"),
    "another kind": (
        {"prior": {"type": "toys"}},
        untouched,
        r"enhance\.prior\.type: unknown depth-prior 'toys'",
    ),
    "estimator": ({"estimator": "nowhere"}, untouched, "estimator: nowhere: no such folder"),
    "no estimator": ({"estimator": "tiny"}, untouched, "estimator: tiny: cannot load a depth estimator"),
}


@pytest.mark.parametrize(("options", "spoil", "message"), BAD.values(), ids=BAD)
def test_bad_input(options: dict[str, Any], spoil: Callable[[Path], None], message: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(InputError, match=message) as error:
        make(enhance=dict(options))
    assert "\n" not in str(error.value) and not TinyBall.prompts, "refused before the views are made"


@pytest.mark.usefixtures("no_camera_check")
def test_without_the_picture_there_is_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = registry.find("sv3d-views", "views")
    monkeypatch.setattr(cls, "angles", lambda self: (torch.tensor([90.0, 180.0]), torch.zeros(2)))
    with pytest.raises(InputError, match="enhance: the input image is not one of the views"):
        make(enhance={})


def test_views_of_a_text_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyBall, "takes_image", False)
    cls = registry.find("mvdream-views", "views")
    data = {"prior": {"type": "tiny-ball", "weights": "ball.safetensors"}, "enhance": "rgnv"}
    with pytest.raises(InputError, match="enhance: there is no input image to enhance the views by"):
        cls(parse(data, cls.Config, "views"), device=CPU).load()
    assert not TinyBall.prompts


def test_the_bundled_model_is_logged(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """Without options the bundled model is used, and the log says so."""
    from liftstudio.core import assets

    package.package(Path("tiny"), Path("assets/priors/depth-tiny"))
    monkeypatch.setattr(assets, "PACKAGE", folder.parent)
    cls = registry.find("sv3d-views", "views")
    data = {"image": "ball.png", "prior": {"type": "tiny-ball", "weights": "ball.safetensors"}, "steps": 1}
    data |= {"elevation_deg": 10}
    data |= {"orbit": {"frames": 2}, "resolution": SIZE, "enhance": {"type": "rgnv", "levels": "3"}}
    with caplog.at_level(logging.INFO, "liftstudio"):
        views = cls(parse(data, cls.Config, "views"), device=CPU).load()
    assert len(views) == 2 and "enhance: depth prior asset://priors/depth-tiny" in caplog.text
    assert "a stand-in for Stable Diffusion 2's depth model" in caplog.text
