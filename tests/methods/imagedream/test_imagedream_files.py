"""Weight files and pipelines of ImageDream and MVDream: modes, layouts, parts from elsewhere, faults."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_imagedream import NUMBERS, PREFIX, tiny_state, write_tiny_text
from imagedream_inputs import CPU, cameras, input_of, latents_of, open_imagedream
from safetensors.torch import load_file, save_file
from torch import Tensor

from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.registry import find
from liftstudio.core.weights import Weights
from liftstudio.methods.imagedream import checkpoint, layout
from liftstudio.priors.base import NoisyViews
from liftstudio.priors.latent_diffusion import vae_part
from liftstudio.priors.opening import resolve

SEED = fresh_seed(__name__)


class Listed(Weights):
    """A weight file of which only the name and some keys are available; those of the conversion have no prefix."""

    def __init__(self, name: str, metadata: dict[str, str]) -> None:
        self.path, self.metadata = Path(name), metadata
        prefix = PREFIX if name.endswith(".pt") else ""
        self.shapes = {f"{prefix}camera_embed.0.weight": (1280, 16), f"{prefix}image_embed.latents": (1, 16, 1024)}


@pytest.mark.parametrize(
    ("name", "metadata", "asked", "wanted"),
    [
        ("sd-v2.1-base-4view-ipmv.pt", {}, "auto", "pixel"),
        ("sd-v2.1-base-4view-ipmv-local.pt", {}, "auto", "local"),
        ("ipmv-local-tests/sd-v2.1-base-4view-ipmv.pt", {}, "pixel", "pixel"),
        ("imagedream-ipmv-diffusers/unet/diffusion_pytorch_model.safetensors", {}, "auto", "pixel"),
        ("model.pt", {}, "local", "local"),
        ("model.pt", {"mode": "local"}, "auto", "local"),
        ("model.pt", {}, "auto", r"set prior\.type=imagedream, and prior\.mode=pixel .* or prior\.mode=local"),
        ("ipmv/model.pt", {}, "auto", r"cannot tell the mode from its weights or its name"),
        ("ipmv-local/my-ipmv.pt", {}, "auto", "pixel"),
        ("models--o--my-ipmv-local/snapshots/01ab/unet/model.safetensors", {}, "auto", "local"),
        ("my-ipmv/unet/my-ipmv-local.pt", {}, "auto", "local"),
        ("my-ipmv/unet/model.pt", {}, "auto", r"cannot tell the mode from its weights or its name"),
        ("my-ipmv.pt", {"mode": "local"}, "pixel", r"mode: expected local, the mode of .*, got pixel"),
        ("sd-v2.1-base-4view-ipmv.pt", {}, "local", r"mode: expected pixel, the mode of .*ipmv\.pt, got local"),
        ("sd-v2.1-base-4view-ipmv-local.pt", {}, "pixel", r"mode: expected local, the mode of .*, got pixel"),
        ("model.pt", {}, "text", r"mode: expected pixel or local, the mode of .*, got text"),
        ("model.pt", {"mode": "global"}, "auto", r"metadata 'mode': expected pixel or local, got 'global'"),
    ],
)
def test_mode_is_checked(name: str, metadata: dict[str, str], asked: str, wanted: str) -> None:
    weights = Listed(name, metadata)
    if wanted in ("pixel", "local"):
        assert layout.mode_of(weights, asked) == wanted
    else:
        with pytest.raises(InputError, match=wanted):
            layout.mode_of(weights, asked)


@pytest.mark.parametrize(("kind", "tokens"), [("mlp", 5), ("global", 4)])
def test_adaptors_without_a_resampler(folder: Path, generator: torch.Generator, kind: str, tokens: int) -> None:
    """They are known by their weights, and the image counts through them."""
    path = folder / f"{kind}.safetensors"
    save_file(tiny_state(adaptor=kind, seed=SEED % 2**32), path, NUMBERS)
    assert layout.adaptor_kind(Weights(path), f"{PREFIX}image_embed.") == kind
    prior = open_imagedream(path, folder / "text")
    assert prior.mode == "local"
    shown, other = (prior.condition(input_of(generator)) for _ in range(2))
    text = prior.text[0].shape[-2]
    assert shown.conditional.context.shape[-2] == text + tokens and shown.conditional.latent is None
    latents = latents_of(prior, generator)
    found = [prior.denoise(NoisyViews(latents, 1.0, condition, cameras())) for condition in (shown, other)]
    assert all(each.isfinite().all() for each in found) and (found[0] - found[1]).abs().max() > 1e-4


def test_an_adaptor_that_does_not_fit_the_image_tower_is_refused(folder: Path) -> None:
    state = tiny_state(adaptor="global", seed=SEED % 2**32)
    wide = state[f"{PREFIX}image_embed.proj.weight"]
    save_file(
        state | {f"{PREFIX}image_embed.proj.weight": wide[:, :-1].contiguous()}, folder / "bad.safetensors", NUMBERS
    )
    with pytest.raises(InputError, match=r"expected image tokens of width 19, as .* takes, got 20"):
        open_imagedream(folder / "bad.safetensors", folder / "text")


def test_a_pipeline_is_known_by_its_files(tmp_path: Path) -> None:
    """An official file in a folder `unet` belongs to no pipeline unless the pipeline's index is beside it."""
    official = Listed(f"{tmp_path}/unet/model.pt", {})
    assert layout.pipeline_of(Listed(f"{tmp_path}/unet/model.safetensors", {})) == tmp_path
    assert layout.pipeline_of(Listed(f"{tmp_path}/model.safetensors", {})) is None
    assert layout.pipeline_of(official) is None
    (tmp_path / "model_index.json").write_text("{}")
    assert layout.pipeline_of(official) == tmp_path


@pytest.mark.parametrize(("name", "said"), [("my-ipmv.pt", "suggests pixel"), ("my.pt", ""), ("ipmv/my.pt", "")])
def test_an_explicit_mode_overrides_a_hint_in_the_name(name: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    assert layout.mode_of(Listed(name, {}), "local") == "local"
    assert said in caplog.text if said else not caplog.text


def write_pipeline(folder: Path, state: dict[str, Tensor], old_names: bool) -> None:
    """Write the public conversion: official names without a prefix; autoencoder and image tower in library format."""
    from transformers import CLIPVisionModel

    save_file(state, folder.with_suffix(".safetensors"), NUMBERS)
    parts = checkpoint.open_parts(Weights(folder.with_suffix(".safetensors")), 1.0, checkpoint.Elsewhere("", ""))
    for name in ("unet", "vae"):
        (folder / name).mkdir(parents=True)
    bare = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
    save_file(bare, folder / "unet" / "diffusion_pytorch_model.safetensors", NUMBERS)
    parts.vae.load(torch.float32, CPU).save_pretrained(folder / "vae")
    if old_names:
        path = folder / "vae" / "diffusion_pytorch_model.safetensors"
        changes = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
        named = load_file(path)
        for new, old in changes.items():
            named = {key.replace(new, old): value for key, value in named.items()}
        save_file(named, path)
    tower = parts.tower.load(torch.float32, CPU)
    alone = CLIPVisionModel(tower.config)
    names = {key.removeprefix("vision_model."): value for key, value in tower.vision_model.state_dict().items()}
    keys = alone.state_dict()
    alone.load_state_dict({key: names[key.removeprefix("vision_model.")] for key in keys})
    alone.save_pretrained(folder / "image_encoder")


@pytest.fixture(scope="module")
def conversion(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public conversion with its text encoder; tests leave it as it is."""
    pipeline = tmp_path_factory.mktemp("conversion") / "tiny-ipmv-diffusers"
    write_pipeline(pipeline, load_file(folder / "tiny-ipmv.safetensors"), old_names=False)
    shutil.copytree(folder / "text", pipeline, dirs_exist_ok=True)
    return pipeline


@pytest.mark.parametrize("old_names", [False, True])
def test_the_public_conversion(
    folder: Path, conversion: Path, pixel: Any, tmp_path: Path, generator: torch.Generator, old_names: bool
) -> None:
    pipeline = conversion
    if old_names:
        pipeline = tmp_path / "tiny-ipmv-diffusers"
        write_pipeline(pipeline, load_file(folder / "tiny-ipmv.safetensors"), old_names)
        shutil.copytree(folder / "text", pipeline, dirs_exist_ok=True)
    file = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    latents, posed = latents_of(pixel, generator), input_of(generator)
    expected = pixel.denoise(NoisyViews(latents, 1.0, pixel.condition(posed), cameras()))
    for weights in (pipeline, file) if old_names else (pipeline,):
        prior = open_imagedream(weights, Path(), text_encoder="")
        assert prior.mode == "pixel"
        found = prior.denoise(NoisyViews(latents, 1.0, prior.condition(posed), cameras()))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(prior.decode(latents)[0], pixel.decode(latents)[0])


@pytest.mark.parametrize(
    ("place", "weights"),
    [("unet", "diffusion_pytorch_model.safetensors"), (".", "unet"), (".", "."), (".", "unet/../unet/"), ("vae", "..")],
)
def test_the_public_conversion_by_its_unet(
    conversion: Path, monkeypatch: pytest.MonkeyPatch, place: str, weights: str
) -> None:
    """Opened by paths that do not name the pipeline."""
    monkeypatch.chdir(conversion / place)
    assert open_imagedream(Path(weights), Path(), text_encoder="", mode="pixel").mode == "pixel"


def test_foreign_autoencoders(folder: Path, conversion: Path, tmp_path: Path) -> None:
    """Autoencoders with another latent scale, or other latents than the network's."""
    from diffusers import AutoencoderKL

    vae = shutil.copytree(conversion / "vae", tmp_path / "vae")
    options = json.loads((vae / "config.json").read_text())
    (vae / "config.json").write_text(json.dumps(options | {"scaling_factor": 0.5}))
    with pytest.raises(
        InputError, match=r"vae: its latents are scaled by 0\.5, expected 0\.18215; vae: expected the folder"
    ):
        open_imagedream(folder / "tiny-ipmv.safetensors", folder / "text", vae=str(vae))
    AutoencoderKL.from_config(options | {"latent_channels": 8}).save_pretrained(tmp_path / "wide")
    with pytest.raises(InputError, match=r"wide.*: expected 4 latent channels, as .*tiny-ipmv\.safetensors has, got 8"):
        open_imagedream(folder / "tiny-ipmv.safetensors", folder / "text", vae=str(tmp_path / "wide"))


def test_what_a_file_lacks_comes_from_folders(
    folder: Path, conversion: Path, pixel: Any, tmp_path: Path, generator: torch.Generator
) -> None:
    """An official file without encoders, or with ones that options replace."""
    state = load_file(folder / "tiny-ipmv.safetensors")
    bare = {key: value for key, value in state.items() if key.startswith(PREFIX)}
    save_file(bare, tmp_path / "bare-ipmv.safetensors", NUMBERS)
    elsewhere = {"vae": str(conversion / "vae"), "image_encoder": str(conversion / "image_encoder")}
    posed, latents = input_of(generator), latents_of(pixel, generator)
    for path in (tmp_path / "bare-ipmv.safetensors", folder / "tiny-ipmv.safetensors"):
        prior = open_imagedream(path, folder / "text", **elsewhere)
        found, expected = (p.denoise(NoisyViews(latents, 1.0, p.condition(posed), cameras())) for p in (prior, pixel))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        "tiny-ipmv/unet/config.json",
        "tiny-ipmv/vae/diffusion_pytorch_model.safetensors",
        "text/text_encoder/config.json",
    ],
)
def test_other_networks_have_another_cache_key(
    folder: Path, conversion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """The cache key covers the weights' pipeline and the folders that options name."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(conversion, "tiny-ipmv")
    write_tiny_text(Path("text"), seed=SEED)
    Path("tiny-ipmv/unet/config.json").write_text("{}")
    config = find("imagedream", "prior").Config("tiny-ipmv", text_encoder="text", prompt="long " * 100)
    block = ComponentSpec("prior", "imagedream", config)
    key = resolve(block).fingerprint()
    assert resolve(block).fingerprint() == key and set(key["folders"]) == {"weights", "text_encoder"}
    Path("text/notes.md").write_text("no part of a network")
    assert resolve(block).fingerprint() == key
    Path(changed).write_bytes(Path(changed).read_bytes())  # another modification time suffices
    assert resolve(block).fingerprint() != key
    alone = ComponentSpec("prior", "imagedream", replace(config, weights=str(folder / "tiny-ipmv.safetensors")))
    assert set(resolve(alone).fingerprint()["folders"]) == {"text_encoder"}


def test_other_missing_parts(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / "tiny-ipmv.safetensors")
    text, absent = folder / "text", str(tmp_path / "absent")
    with pytest.raises(InputError, match=r"no such file or folder; .*Peng-Wang/ImageDream.*licences"):
        open_imagedream(tmp_path / "sd-v2.1-base-4view-ipmv.pt", text)
    for option, message in (
        ("vae", "vae: expected the folder of an AutoencoderKL"),
        ("image_encoder", "laion/CLIP-ViT-H"),
    ):
        with pytest.raises(InputError, match=f"absent.*no such folder.*{message}.*licence"):
            open_imagedream(folder / "tiny-ipmv.safetensors", text, **{option: absent})
    wide = write_tiny_text(tmp_path / "wide", width=24)
    with pytest.raises(InputError, match=r"text_encoder: expected tokens of width 16, .* got 24"):
        open_imagedream(folder / "tiny-ipmv.safetensors", wide)
    state[f"{PREFIX}image_embed.proj_in.weight"] = torch.ones(24, 20)
    save_file(state, tmp_path / "other-ipmv.safetensors", NUMBERS)
    with pytest.raises(InputError, match=r"expected image tokens of width 20, .* got 48"):
        open_imagedream(tmp_path / "other-ipmv.safetensors", text)


KEY = f"{PREFIX}middle_block.1.transformer_blocks.0.attn2.to_k_ip.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(KEY), f"the weight '{re.escape(KEY)}' is missing"),
        (lambda s: s.update({KEY: torch.ones(7, 3)}), re.escape(f"'{KEY}' has shape [7, 3]")),
        (lambda s: s.update(extra=torch.ones(1)), "unexpected weight 'extra'"),
        (lambda s: s.pop(f"{PREFIX}camera_embed.0.weight"), "not ImageDream's or MVDream's weights"),
        (lambda s: s.pop("vae_model.decoder.conv_in.weight"), r"'vae_model\.decoder\.conv_in\.weight' is missing"),
        (
            lambda s: s.update({f"{PREFIX}input_blocks.1.0.in_layers.2.weight": torch.ones(20, 4, 3, 3)}),
            r"in_layers\.2\.weight' has 20 channels, not a multiple of 32",
        ),
    ],
)
def test_wrong_files_are_refused(folder: Path, tmp_path: Path, change: Any, message: str) -> None:
    state = load_file(folder / "tiny-ipmv.safetensors")
    change(state)
    save_file(state, tmp_path / "wrong-ipmv.safetensors", NUMBERS)
    with pytest.raises(InputError, match=message):
        open_imagedream(tmp_path / "wrong-ipmv.safetensors", folder / "text")


def test_heads_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / "tiny-ipmv.safetensors")
    save_file(state, tmp_path / "wrong-ipmv.safetensors", NUMBERS | {"num_head_channels": "5"})
    with pytest.raises(InputError, match="32 channels are not divisible by the head size 5; set"):
        open_imagedream(tmp_path / "wrong-ipmv.safetensors", folder / "text")


def test_a_checkpoint_of_torch_is_opened(folder: Path, pixel: Any, tmp_path: Path) -> None:
    """The official file is a flat dict; what no shape reveals is then that of the official models."""
    torch.save(load_file(folder / "tiny-ipmv.safetensors"), tmp_path / "tiny-ipmv.pt")
    with pytest.raises(InputError, match="24 channels are not divisible by the head size 64"):
        open_imagedream(tmp_path / "tiny-ipmv.pt", folder / "text")
    vae = vae_part(Weights(tmp_path / "tiny-ipmv.pt"), "vae_model.").load(torch.float32, CPU).state_dict()
    for key, tensor in pixel.vae.state_dict().items():
        assert torch.equal(vae[key], tensor), key


SIZES = {
    "three levels": {"channels": (32, 64, 64), "attends": (True, True, False), "layers": 2},
    "attention in the middle alone": {"channels": (64,), "attends": (False,), "head_channels": 32},
    "attention at half resolution": {"channels": (32, 64), "attends": (False, True)},
    "heads wider than a level without": {"channels": (32, 64), "attends": (False, True), "head_channels": 64},
}


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("options", SIZES.values(), ids=SIZES)
def test_other_sizes(
    options: dict[str, Any], image: bool, folder: Path, tmp_path: Path, generator: torch.Generator
) -> None:
    """Sizes are determined by the file alone."""
    state = tiny_state(seed=SEED, image=image, **options)
    heads = {"num_head_channels": str(options.get("head_channels", 16))}
    save_file(state, tmp_path / "other.safetensors", NUMBERS | heads | {"mode": "local"})
    prior = open_imagedream(tmp_path / "other.safetensors", folder / "text")
    latents = latents_of(prior, generator)
    estimate = prior.denoise(NoisyViews(latents, 1.0, prior.condition(input_of(generator)), cameras()))
    assert estimate.shape == latents.shape and torch.isfinite(estimate).all()


def test_the_prior_is_recognised_by_its_weights(folder: Path) -> None:
    """`type: auto` finds this prior by its weights, and then needs its options."""
    recognizes = find("imagedream", "prior").recognizes
    for name in ("tiny-ipmv", "tiny-4view"):
        assert recognizes(Weights(folder / f"{name}.safetensors"))
    for other in ("sv3d", "syncdreamer"):
        assert not find(other, "prior").recognizes(Weights(folder / "tiny-ipmv.safetensors"))
