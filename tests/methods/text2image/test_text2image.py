"""Text-to-image priors compared with diffusers and transformers, and score distillation by them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_hifi123 import TOKENS, tiny_unet
from helpers.tiny_scenes import sphere_views
from helpers.tiny_text2image import PIXELS, SIZE, write_tiny_if, write_tiny_stable_diffusion
from safetensors.torch import load_file, save_file
from torch import Tensor

from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.registry import find
from liftstudio.data.cameras import orbit_cameras
from liftstudio.data.images import resize_smooth
from liftstudio.data.render import Render
from liftstudio.methods.text2image.guidance import TextToImageSDS
from liftstudio.priors.base import NoisyViews
from liftstudio.priors.opening import open_prior

SEED = fresh_seed(__name__)
CPU = torch.device("cpu")
KINDS = {"if": "deepfloyd-if", "sd": "stable-diffusion", "v": "stable-diffusion"}
TEXTS = {"prompt": "a Cat", "negative_prompt": "dog"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text2image")
    write_tiny_if(folder / "if", SEED)
    write_tiny_stable_diffusion(folder / "sd", SEED)
    write_tiny_stable_diffusion(folder / "v", SEED, "v_prediction")
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """Copies of the folders, to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "priors"))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def block(folder: Path, name: str, kind: str = "", **options: Any) -> ComponentSpec:
    kind = kind or KINDS[name]
    known = {**TEXTS, **options}
    if kind == "auto":
        known.pop("negative_prompt")
    return ComponentSpec("prior", kind, find(kind, "prior").Config(str(folder / name), **known))


def opened(folder: Path, name: str, **options: Any) -> Any:
    return open_prior(block(folder, name, **options), CPU)


@torch.no_grad()
def texts_by_hand(folder: Path) -> Tensor:
    """Return the embeddings [2, L, D] of the two texts, computed as in stock pipelines."""
    from transformers import AutoTokenizer, CLIPTextModel, CLIPTokenizer, T5EncoderModel

    if folder.name == "if":
        t5: Any = AutoTokenizer.from_pretrained(folder / "tokenizer")
        texts = [text.lower() for text in TEXTS.values()]
        tokens = t5(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        tower: Any = T5EncoderModel.from_pretrained(folder / "text_encoder")
        return tower(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
    clip: Any = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokens = clip(list(TEXTS.values()), padding="max_length", max_length=TOKENS, return_tensors="pt")
    tower = CLIPTextModel.from_pretrained(folder / "text_encoder")
    return tower(tokens.input_ids)[0]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("scale", [1.0, 6.0])
@torch.no_grad()
def test_estimates_are_those_of_diffusers(written: Path, name: str, scale: float) -> None:
    """For both texts, noise or v prediction, without the variance: equal to a stock scheduler's estimate."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    prior = opened(written, name)
    scheduler: Any = DDPMScheduler.from_pretrained(written / name / "scheduler", clip_sample=False, thresholding=False)
    alpha_bar = scheduler.alphas_cumprod[300]
    sigma = float(((1 - alpha_bar) / alpha_bar).sqrt())
    x = torch.randn(2, *prior.latent_shape, generator=generator())
    views = orbit_cameras(torch.zeros(2), torch.zeros(2), 3.8, 20.0, 8, 8)
    found = prior.denoise(
        NoisyViews(x / alpha_bar.sqrt(), sigma, prior.condition(None), views, torch.full((2,), scale))
    )
    unet: Any = UNet2DConditionModel.from_pretrained(written / name / "unet")
    channels = prior.latent_shape[0]
    with_text, without = (
        unet(x, 300, text[None].expand(2, -1, -1)).sample[:, :channels] for text in texts_by_hand(written / name)
    )
    output = without + scale * (with_text - without)
    wanted = alpha_bar.sqrt() * x - (1 - alpha_bar).sqrt() * output
    if name != "v":
        wanted = (x - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
    assert (with_text - without).abs().max() > 1e-3, "the text has an effect"
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3, msg=f"seed {SEED}")
    assert prior.levels.shape == (1000,) and prior.sigma_max == prior.levels[-1].item()


def test_pictures_and_pixels(written: Path) -> None:
    """IF works on pixels, Stable Diffusion on an autoencoder's latents."""
    by_name = {name: opened(written, name) for name in ("if", "sd")}
    assert by_name["if"].resolution == PIXELS and by_name["sd"].resolution == SIZE
    images = torch.rand(1, PIXELS, PIXELS, 3, generator=generator())
    latents = by_name["if"].encode(images, torch.ones(1))
    torch.testing.assert_close(latents[0, 2], 2 * images[0, ..., 2] - 1)
    torch.testing.assert_close(by_name["if"].decode(latents)[0], images)
    assert by_name["sd"].latent_shape == (4, 8, 8)


@pytest.mark.parametrize("name", ["if", "sd"])
def test_recognised_by_their_weights(written: Path, name: str) -> None:
    prior = opened(written, name, kind="auto")
    assert type(prior) is find(KINDS[name], "prior")


def make(prior: ComponentSpec, picture: bool = True, **options: Any) -> Any:
    cls = find("text-to-image-sds", "guidance")
    views = replace(sphere_views(3, 32), input_views=(2,)) if picture else None
    return cls(cls.Config(prior=prior, **options), views=views, device=CPU)


def test_distillation_by_hand(written: Path) -> None:
    """DreamFusion's gradient, over the scene's background, with noise of the prior's own schedule."""
    guidance = make(block(written, "if"), guidance_scale=20.0, views_per_step=[2], resolution=[24])
    request = guidance.request(5, generator())
    prior, cameras, sigma = guidance.prior, request.cameras, request.sigma
    picture = sphere_views(3, 32).cameras[2:]
    assert len(cameras) == 2 and cameras.width == 24 and request.passes == {"background"}
    torch.testing.assert_close(cameras.distance, picture.distance.expand(2))
    torch.testing.assert_close(cameras.fov_deg, picture.fov_deg.expand(2))
    timestep = int((prior.levels - sigma).abs().argmin())
    assert 20 <= timestep <= 980 and sigma == pytest.approx(prior.levels[timestep].item())
    foreground = torch.rand(2, 24, 24, 3, generator=generator(), requires_grad=True)
    opacity = torch.full((2, 24, 24, 1), 0.5)
    behind = torch.full_like(foreground, 0.3)
    render = Render(foreground + (1 - opacity) * behind, foreground, opacity, background=behind)
    (gradient,) = torch.autograd.grad(guidance.losses(request, render)["sds"], foreground, retain_graph=True)
    latents = 2 * resize_smooth(render.rgb, PIXELS, PIXELS).permute(0, 3, 1, 2) - 1
    noise, noisy = request.noise, latents.detach() + sigma * request.noise
    views, scales = request.views, torch.full((2,), 20.0)
    epsilon = (noisy - prior.denoise(NoisyViews(noisy, sigma, prior.condition(None), views, scales))) / sigma
    weighted = sigma**2 / (1 + sigma**2) * (epsilon - noise) / latents.numel()
    (wanted,) = torch.autograd.grad(latents, foreground, weighted)
    tolerance = 1e-3 * wanted.abs().max().item()
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=tolerance, msg=f"seed {SEED}")


def test_without_a_picture(written: Path) -> None:
    guidance = make(block(written, "sd"), picture=False, distance=3.0, fov_deg=30.0)
    cameras = guidance.request(0, generator()).cameras
    torch.testing.assert_close(cameras.distance, torch.tensor([3.0]))
    torch.testing.assert_close(cameras.fov_deg, torch.tensor([30.0]))


def no_text(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder")


def no_schedule(folder: Path) -> None:
    shutil.rmtree(folder / "scheduler")


def strange_schedule(folder: Path) -> None:
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "sample"}))


def lacking_text(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    state = load_file(path)
    state.pop("encoder.block.0.layer.0.SelfAttention.q.weight")
    save_file(state, path, metadata={"format": "pt"})


def no_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")


def sample_size(value: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "unet" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": value}))

    return spoil


def other_channels(folder: Path) -> None:
    tiny_unet(generator(), in_channels=8, out_channels=4).save_pretrained(folder / "unet")


BAD: dict[str, tuple[str, Callable[[Path], None], dict[str, Any], str]] = {
    "no prompt": ("sd", lambda _: None, {"prompt": ""}, "prompt: a text-to-image model needs a text"),
    "long": (
        "sd",
        lambda _: None,
        {"prompt": "a" * TOKENS},
        f"prompt: {TOKENS + 2} tokens, but the text enc",
    ),
    "long T5": (
        "if",
        lambda _: None,
        {"negative_prompt": "a" * 77},
        "negative_prompt: 78 tokens, but the text",
    ),
    "no text": ("sd", no_text, {}, r"text_encoder/config\.json: no such file .*Stable Diffusion in diffusers' format"),
    "no IF": ("if", shutil.rmtree, {}, "if: no such folder; DeepFloyd IF's stage I is at"),
    "no SD": ("sd", shutil.rmtree, {}, "sd: no such folder; Stable Diffusion in diffusers' format"),
    "no schedule": ("sd", no_schedule, {}, r"scheduler_config\.json: no such file"),
    "schedule": ("sd", strange_schedule, {}, "prediction_type: expected epsilon or v_prediction, got sample"),
    "lacking T5": ("if", lacking_text, {}, "SelfAttention.q.weight' is missing or has the wrong shape; DeepFloyd IF's"),
    "no tokenizer": ("if", no_tokenizer, {}, "tokenizer: cannot be loaded"),
    "no size": ("sd", sample_size(None), {}, r"unet/config\.json: sample_size: expected a whole number .*, got None"),
    "size": (
        "if",
        sample_size([16, 8]),
        {},
        r"unet/config\.json: sample_size: expected .*, or two equal ones, got \[16",
    ),
    "channels": ("sd", other_channels, {}, "unet: 8 channels in and 4 out; expected 4 and 4"),
}


@pytest.mark.parametrize(("name", "spoil", "options", "message"), BAD.values(), ids=BAD)
def test_bad_input(
    folder: Path, name: str, spoil: Callable[[Path], None], options: dict[str, Any], message: str
) -> None:
    spoil(folder / name)
    with pytest.raises(InputError, match=message) as error:
        opened(folder, name, **options)
    assert "\n" not in str(error.value)


def test_another_prior_is_refused() -> None:
    toys = ComponentSpec("prior", "auto", find("auto", "prior").Config("asset://priors/toys"))
    with pytest.raises(InputError, match=r"prior: toys \(bundled\) is not a text-to-image model"):
        make(toys)
    assert TextToImageSDS.Config is find("text-to-image-sds", "guidance").Config
