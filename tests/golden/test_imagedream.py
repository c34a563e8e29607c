"""The ImageDream and MVDream port compared with the official code, also on cases in LIFTSTUDIO_GOLDEN.

A case folder has `unet_<name>_config.json` files with the sizes of networks, their weights in `unet_<name>_state` and
cases in `unet_<name>_io`; every other file whose name fits a pattern below is a case, too. All sizes come from the
configs and the files.
"""

import contextlib
import functools
import json
import math
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.golden_data import Listed, files_of, golden_root, parameters, unpacked
from helpers.paths import GOLDEN
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.schedules import Schedule
from liftstudio.core.weights import Weights
from liftstudio.data.cameras import Cameras, concatenate, orbit_cameras
from liftstudio.guidance.score_distillation import DistillationRequest
from liftstudio.methods.imagedream import checkpoint, conditioning, denoising, layout
from liftstudio.methods.imagedream.denoising import rescaled
from liftstudio.methods.imagedream.guidance import ImageDreamSDS
from liftstudio.methods.imagedream.prior import ImageDream
from liftstudio.priors.base import NoisyViews
from liftstudio.priors.classifier_free import guided
from liftstudio.priors.distillation import reconstruction_loss, sds_loss
from liftstudio.priors.parameterization import alpha_bar_from_sigma
from liftstudio.priors.samplers import euler, scaled_linear_levels

BUNDLED = GOLDEN / "imagedream" / "golden.tar.xz"
CPU = torch.device("cpu")
PREFIX = "model.diffusion_model."
# Tolerances that the data's own description states for a port in float32 on a CPU: relative in the 2-norm, absolute.
# Guidance multiplies the network's differences by 5 to 10, and division by alpha at high noise by up to 15.
NETWORK, NETWORK_ABSOLUTE, LOOP, CAMERA = 1e-5, 2e-5, 1e-4, 1e-6
GUIDANCE_SCALE = 5.0  # of sampling; stated by the data's README but in no file
Case = dict[str, Tensor]


def config_of(path: Path) -> dict[str, Any]:
    config = json.loads(path.read_text())
    return config if isinstance(config, dict) else {}


def networks(folder: Path) -> dict[str, dict[str, Any]]:
    """Return name -> constructor arguments."""
    found = {path.stem[5:-7]: config_of(path) for path in sorted(folder.glob("unet_*_config.json"))}
    return {
        name: config["model_config"] for name, config in found.items() if "camera_dim" in config.get("model_config", {})
    }


def case_folders() -> list[Path]:
    folders = sorted({path.parent for path in golden_root(BUNDLED).rglob("unet_*_config.json")})
    return [folder for folder in folders if networks(folder)]


def cases(pattern: str) -> list[Any]:
    return parameters(files_of(case_folders(), pattern))


def named(case: Case, prefix: str) -> Case:
    """Return the values named `prefix`.something, by `something`."""
    return {key.removeprefix(f"{prefix}."): value for key, value in case.items() if key.startswith(f"{prefix}.")}


def opened(state: Case, metadata: dict[str, str]) -> Any:
    """Open a weight file with this content; it exists as long as the result."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "weights.safetensors"
    save_file(state, path, metadata)
    weights: Any = Weights(path)
    weights.kept = folder
    return weights


@dataclass(frozen=True)
class Model:
    sizes: dict[str, Any]
    unet: Any
    adaptor: Any

    def prior(self, views: int) -> Any:
        """Return the prior of a network for `frames` views, without autoencoder, image tower and text encoder."""
        prior = ImageDream.__new__(ImageDream)
        prior.unet, prior.levels, prior.frames = self.unet, scaled_linear_levels(), views
        return prior

    def condition(self, case: Case, *, as_frame: bool) -> Any:
        """Return the condition of a case's tensors, with or without an image frame."""
        text = torch.cat([case["text_cond"], case["text_uncond"]])
        image = self.adaptor(torch.cat([case["image_tokens"], torch.zeros_like(case["image_tokens"])]))
        return denoising.make_condition(text, image, case["image_latent"][0] if as_frame else None)


def attends(block: Any) -> bool:
    return getattr(block, "has_cross_attention", False)


@functools.cache
def model_of(folder: Path, name: str) -> Model:
    sizes = networks(folder)[name]
    state = load_file(folder / f"unet_{name}_state.safetensors")
    weights = opened(state, {"num_head_channels": str(sizes["num_head_channels"])})
    part = checkpoint.unet_part(weights, sizes.get("ip_weight", 1.0))
    adaptor = checkpoint.adaptor_part(weights, f"{PREFIX}image_embed.") if sizes["with_ip"] else None
    used = {key for one in (part, adaptor) if one for key, _ in one.sources.values()}
    assert used == set(state)
    unet = part.load(torch.float32, CPU)
    assert list(unet.config.block_out_channels) == [m * sizes["model_channels"] for m in sizes["channel_mult"]]
    assert unet.config.layers_per_block == sizes["num_res_blocks"]
    assert unet.config.cross_attention_dim == sizes["context_dim"]
    assert [attends(block) for block in unet.down_blocks] == [
        2**level in sizes["attention_resolutions"] for level in range(len(unet.down_blocks))
    ]
    return Model(sizes, unet, adaptor.load(torch.float32, CPU) if adaptor else None)


def model_for(folder: Path, text: Tensor) -> Model:
    """Return the network with image input that fits the text."""
    fitting = (
        name for name, sizes in networks(folder).items() if sizes["with_ip"] and sizes["context_dim"] == text.shape[-1]
    )
    return model_of(folder, next(fitting))


def close(a: Tensor, b: Tensor, relative: float, absolute: float = math.inf, name: str = "") -> None:
    assert a.shape == b.shape, (name, a.shape, b.shape)
    assert torch.isfinite(a).all()
    difference = (a - b).double()
    found = (difference.norm() / b.double().norm()).item(), difference.abs().max().item()
    print(f"{name}: relative {found[0]:.1e}, absolute {found[1]:.1e}")  # noqa: T201  for pytest -rP
    assert found[0] <= relative and found[1] <= absolute, (name, found)


def test_there_is_a_case() -> None:
    patterns = "unet_*_io.safetensors", "sds*.safetensors"
    assert any(map(cases, patterns)), f"no case of ImageDream in {golden_root(BUNDLED)}"


def blocks(unet: Any, sizes: dict[str, Any]) -> dict[str, nn.Module]:
    """Return official block names -> modules with the same output."""
    found = {"time_embed": unet.time_embedding, "camera_embed": unet.class_embedding, "middle_block": unet.mid_block}
    found["input_blocks.0"] = unet.conv_in
    count = sizes["num_res_blocks"] + 1
    for way, first, levels in (("input_blocks", 1, unet.down_blocks), ("output_blocks", 0, unet.up_blocks)):
        for level, block in enumerate(levels):
            for index, part in enumerate(block.attentions if attends(block) else block.resnets):
                found[f"{way}.{level * count + first + index}"] = part
            if way == "output_blocks" and block.upsamplers:  # the level's last block ends with it
                found[f"{way}.{level * count + count - 1}"] = block.upsamplers[0]
            if way == "input_blocks" and block.downsamplers:  # a block of its own
                found[f"{way}.{level * count + count}"] = block.downsamplers[0]
    return found


@contextlib.contextmanager
def outputs_of(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Return name -> first output of the module, filled by forward passes."""
    outputs = dict[str, Tensor]()

    def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        outputs[name] = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)

    handles = [module.register_forward_hook(functools.partial(keep, name)) for name, module in modules.items()]
    yield outputs
    for handle in handles:
        handle.remove()


def network_inputs(model: Model, case: Case, frames: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return sample, timesteps, context and cameras of a case, per object."""
    keys = [key for key in ("x", "context", "timesteps", "camera", "ip") if key in case]
    objects = {key: case[key].unflatten(0, (-1, frames)) for key in keys}
    sample, context = objects["x"], objects["context"][:, 0]
    if "ip" in case:
        context = torch.cat([context, model.adaptor(objects["ip"][:, 0])], dim=1)
    if "ip_img" in case:
        pairs = zip(sample[:, None, :-1], case["ip_img"], strict=True)
        sample = torch.cat([denoising.with_image_frame(views, latent) for views, latent in pairs])
    return sample, objects["timesteps"][:, 0], context, objects.get("camera")


@pytest.mark.parametrize("path", cases("unet_*_io.safetensors"))
@torch.no_grad()
def test_network(path: Path) -> None:
    everything = load_file(path)
    model = model_of(path.parent, path.stem[5:-3])
    for name in sorted({key.partition(".")[0] for key in everything}):
        case = named(everything, name)
        frames = int(case["num_frames"])
        inputs = network_inputs(model, case, frames)
        before = [None if tensor is None else tensor.clone() for tensor in inputs]
        with outputs_of(blocks(model.unet, model.sizes)) as outputs:
            found = model.unet(*inputs).flatten(0, 1)
        close(found, case["output"], NETWORK, NETWORK_ABSOLUTE, f"{name} output")
        for given, kept in zip(inputs, before, strict=True):
            assert given is kept is None or torch.equal(given, kept), "inputs are not changed"
        if "ip" in case:
            outputs["image_embed"] = model.adaptor(case["ip"])
        for key, wanted in named(case, "mid").items():
            assert key in outputs, f"{name}: the official block '{key}' has no module; known: {sorted(outputs)}"
            close(outputs[key], wanted, NETWORK, NETWORK_ABSOLUTE, f"{name} {key}")


@pytest.mark.parametrize("path", cases("unet_*_io.safetensors"))
def test_every_official_block_is_a_module(path: Path) -> None:
    model = model_of(path.parent, path.stem[5:-3])
    state = load_file(path.with_name(path.name.replace("_io", "_state")))
    modules = blocks(model.unet, model.sizes)
    numbered = re.compile(rf"{re.escape(PREFIX)}((?:in|out)put_blocks\.\d+)\.")
    assert {match[1] for key in state if (match := numbered.match(key))} == {key for key in modules if "put" in key}
    for key, module in modules.items():
        downsampling = state.get(f"{PREFIX}{key}.0.op.weight")
        assert downsampling is None or torch.equal(module.get_parameter("conv.weight"), downsampling), key


@pytest.mark.parametrize("path", cases("resampler*_io.safetensors"))
@torch.no_grad()
def test_image_adaptor(path: Path) -> None:
    case, stem = load_file(path), path.stem.removesuffix("_io")
    sizes = config_of(path.with_name(f"{stem}_config.json"))["config"]
    state = load_file(path.with_name(f"{stem}_state.safetensors"))
    part = checkpoint.adaptor_part(opened(state, {"adaptor_head_channels": str(sizes["dim_head"])}), "")
    assert {key for key, _ in part.sources.values()} == set(state)
    adaptor = part.load(torch.float32, CPU)
    assert len(adaptor.layers) == sizes["depth"] and adaptor.layers[0].attn.heads == sizes["heads"]
    close(adaptor(case["x"]), case["output"], NETWORK, NETWORK_ABSOLUTE, "output")
    zeros = torch.zeros_like(case["x"])
    close(adaptor(zeros), case["output_zero_input"], NETWORK, NETWORK_ABSOLUTE, "output of zeros")


@pytest.mark.parametrize("path", cases("clip_vision*_io.safetensors"))
@torch.no_grad()
def test_image_tower(path: Path) -> None:
    case, stem = load_file(path), path.stem.removesuffix("_io")
    sizes = config_of(path.with_name(f"{stem}_config.json"))
    state = load_file(path.with_name(f"{stem}_state.safetensors"))
    part = checkpoint.file_clip_part(opened(state, {"clip_head_channels": str(sizes["width"] // sizes["heads"])}))
    assert {key for key, _ in part.sources.values()} == set(state)
    tower = part.load(torch.float32, CPU)
    hidden = tower(pixel_values=case["pixel_values"], output_hidden_states=True).hidden_states[-2]
    close(hidden, case["hidden"], NETWORK, NETWORK_ABSOLUTE, "hidden")


def conditions(cameras: Cameras) -> Tensor:
    return conditioning.camera_conditions(cameras.c2w)


@pytest.mark.parametrize("path", cases("camera*.safetensors"))
def test_cameras_of_the_sampler(path: Path) -> None:
    """Officially azimuth 0 is at -y; in its other convention, y is up."""
    case, config = load_file(path), config_of(path.with_suffix(".json"))
    y_up = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    for one in config["get_camera"]:
        count = one["num_frames"]
        azimuth_deg = one["azimuth_start_deg"] + one["azimuth_span_deg"] / count * torch.arange(count) - 90
        cameras = orbit_cameras(azimuth_deg, torch.full((count,), one["elevation_deg"]), 1.0, 40.0, 8, 8)
        found = conditions(cameras)
        if not one["blender_coord"]:
            found = (y_up @ found.view(-1, 4, 4)).flatten(1)
        if one["extra_view"]:
            found = torch.cat([found, torch.zeros(1, 16)])
        close(found, case[one["name"]], math.inf, CAMERA, one["name"])


@pytest.mark.parametrize("path", cases("camera*.safetensors"))
def test_cameras_of_the_renderer(path: Path) -> None:
    """A random training batch has this project's world axes; those of the sampler are a quarter turn off."""
    everything, config = load_file(path), config_of(path.with_suffix(".json"))
    case, sizes = named(everything, "render"), config["render"]
    columns = ("azimuth", "elevation", "camera_distances", "fovy")
    cameras = concatenate(
        [
            orbit_cameras(a[None], e[None], d, f.item(), sizes["height"], sizes["width"])
            for a, e, d, f in zip(*(case[key] for key in columns), strict=True)
        ]
    )
    close(cameras.c2w, case["c2w"], math.inf, CAMERA, "c2w")
    close(cameras.centers, case["camera_positions"], math.inf, CAMERA, "positions")
    for name, found in zip(("rays_o", "rays_d"), cameras.rays(), strict=True):
        close(found, case[name], math.inf, CAMERA, name)
    points = torch.rand(20, 3) * 2 - 1
    wanted = torch.cat([points, torch.ones(20, 1)], dim=-1) @ case["mvp_mtx"].mT
    clip = cameras.clip(points, near=0.1, far=1000.0) * torch.tensor([1.0, -1.0, 1.0, 1.0])
    close(clip, wanted, math.inf, 1e-5, "clip coordinates")  # of sizes up to 5
    close(conditions(cameras), case["camera_cond"], math.inf, CAMERA, "condition")
    before = case["c2w"].clone()
    conditioning.camera_conditions(case["c2w"])
    assert torch.equal(before, case["c2w"])
    case, sizes = named(everything, "equiv"), config["equiv"]
    azimuth_deg = torch.tensor(sizes["azimuth_deg"], dtype=torch.float32)
    elevation_deg = torch.full_like(azimuth_deg, sizes["elevation_deg"])
    front_first = orbit_cameras(azimuth_deg, elevation_deg, sizes["distance"], 40.0, 8, 8)
    close(front_first.c2w, case["c2w"], math.inf, CAMERA, "c2w")
    close(conditions(front_first), case["camera_cond"], math.inf, CAMERA, "condition")


@pytest.mark.parametrize("path", cases("ddim*.safetensors"))
@torch.no_grad()
def test_sampling(path: Path) -> None:
    """DDIM; the image frame has no camera, and its meaningless result is not computed."""
    case = load_file(path)
    views = int(case["camera"].any(dim=1).sum())
    model = model_for(path.parent, case["text_cond"])
    prior, timesteps = model.prior(views), case["timesteps"].sort().values
    sigmas = prior.levels[F.pad(timesteps, (1, 0))].flip(0)
    if len(prior.levels) % len(timesteps) == 0:  # otherwise the official sampler takes more steps than requested
        assert torch.equal(prior.sigmas(len(timesteps)), sigmas), "noise levels"
    condition = model.condition(case, as_frame=len(case["x_T"]) > views)
    cameras = cameras_of(case["camera"][:views].view(-1, 4, 4))
    scale = torch.full((views,), GUIDANCE_SCALE)
    final = euler(
        lambda z, sigma: prior.denoise(NoisyViews(z, sigma, condition, cameras, scale)), case["x_T"][:views], sigmas
    )
    close(final, case["output"][:views], LOOP, name="output")


def cameras_of(c2w: Tensor) -> Cameras:
    ones = torch.ones(len(c2w))
    return Cameras(c2w, ones, ones, ones, ones, 8, 8)


def sds_cases() -> list[Any]:
    return [
        pytest.param(path, name, id=f"{path.parent.name}/{path.stem}/{name}")
        for path in files_of(case_folders(), "sds*.safetensors")
        for name in config_of(path.with_suffix(".json"))["cases"]
    ]


@pytest.mark.parametrize(("path", "name"), sds_cases())
def test_score_distillation(path: Path, name: str) -> None:
    """Targets, losses and gradients; a sum over the elements of a view officially, a mean here."""
    everything, options = load_file(path), config_of(path.with_suffix(".json"))["cases"][name]
    case = named(everything, options.get("inputs_from", name)) | named(everything, name)
    model, views = model_for(path.parent, case["text_cond"]), len(case["latents"]) // options["objects"]
    prior = model.prior(views)
    sigma = prior.levels[int(case["timestep"])].item()
    latents = case["latents"].clone().requires_grad_()
    condition = model.condition(case, as_frame=options["ip_mode"] == "pixel")

    def denoise(scale: float | None) -> Tensor:
        scales = None if scale is None else torch.full((len(latents),), scale)
        noisy = latents.detach() + sigma * case["noise"]
        return prior.denoise(NoisyViews(noisy, sigma, condition, cameras_of(case["c2w"]), scales))

    conditional, unconditional, scale = denoise(None), denoise(0.0), options["guidance_scale"]
    estimate = guided(conditional, unconditional, torch.full((len(latents),), scale))
    close(estimate, denoise(scale), LOOP, name="both branches in one batch")
    numbers = latents[0].numel()
    if options["recon_loss"]:
        target = rescaled(estimate, conditional, options["recon_std_rescale"], views)
        loss = numbers * reconstruction_loss(latents, target)
        loss.backward()
        gradient, loss = latents.grad, loss.detach()
    else:
        (numbers * sds_loss(latents, estimate, sigma)).backward()
        gradient = len(latents) * latents.grad  # official values are per view, not of a mean
        target, loss = latents.detach() - gradient, 0.5 * gradient.square().sum() / len(latents)
    close(loss[None], case["loss"], LOOP, name="loss")
    close(target, case["target"], LOOP, name="target")
    close(latents.grad, case["grad"], LOOP, name="gradient")
    close(gradient.norm()[None], case["grad_norm"], LOOP, name="norm")


@pytest.mark.parametrize(("path", "name"), sds_cases())
def test_score_distillation_by_the_guidance(path: Path, name: str) -> None:
    """The same through `imagedream-sds`: its estimate and loss."""
    everything, options = load_file(path), config_of(path.with_suffix(".json"))["cases"][name]
    case = named(everything, options.get("inputs_from", name)) | named(everything, name)
    model, views = model_for(path.parent, case["text_cond"]), len(case["latents"]) // options["objects"]
    guidance = ImageDreamSDS.__new__(ImageDreamSDS)
    guidance.config = ImageDreamSDS.Config(
        prior=ComponentSpec("prior", "imagedream", None),
        guidance_scale=options["guidance_scale"],
        rescale=options["recon_std_rescale"],
        loss="reconstruction" if options["recon_loss"] else "sds",
    )
    guidance.prior, guidance.device = model.prior(views), CPU
    cameras, sigma = cameras_of(case["c2w"]), guidance.prior.levels[int(case["timestep"])].item()
    request = DistillationRequest(step=0, cameras=cameras, views=cameras, sigma=sigma, noise=case["noise"])
    latents = case["latents"].clone().requires_grad_()
    noisy = latents.detach() + sigma * case["noise"]
    condition = model.condition(case, as_frame=options["ip_mode"] == "pixel")
    wanted = torch.ones(len(latents), *latents.shape[2:], dtype=torch.bool)
    target = guidance.estimate(request, noisy, condition, wanted)
    (latents[0].numel() * guidance.distance(request, latents, target, 1.0)).backward()
    close(latents.grad, case["grad"], LOOP, name="gradient")
    if options["recon_loss"]:
        close(target, case["target"], LOOP, name="target")


@pytest.mark.parametrize(("path", "name"), sds_cases())
@torch.no_grad()
def test_what_the_network_is_shown(path: Path, name: str) -> None:
    """Rows of the network's batch: the conditional branch first, in each object the image frame, if any, last."""
    everything = load_file(path)
    case, options = named(everything, name), config_of(path.with_suffix(".json"))["cases"][name]
    wanted = named(case, "unet_in")
    if not wanted:
        return
    model, views = model_for(path.parent, case["text_cond"]), len(case["latents"]) // options["objects"]
    prior, shown = model.prior(views), list[Any]()
    sigma = prior.levels[int(case["timestep"])].item()
    noisy, scale = case["latents"] + sigma * case["noise"], torch.full((len(case["latents"]),), 2.0)
    handle = model.unet.register_forward_hook(lambda module, inputs, output: shown.extend([*inputs, output]))
    condition = model.condition(case, as_frame=options["ip_mode"] == "pixel")
    prior.denoise(NoisyViews(noisy, sigma, condition, cameras_of(case["c2w"]), scale))
    handle.remove()
    sample, timestep, context, cameras, output = shown
    frames = sample.shape[1]
    assert frames == views + ("ip_img" in wanted)
    per_object = {key: wanted[key].unflatten(0, (-1, frames)) for key in ("x", "camera", "context")}
    close(sample[:, :views], per_object["x"][:, :views], NETWORK, CAMERA, "x")
    assert "ip_img" not in wanted or torch.equal(sample[:, -1], wanted["ip_img"])
    assert bool((wanted["timesteps"] == timestep).all())
    text = per_object["context"]
    assert torch.equal(context[:, None, : text.shape[2]].expand_as(text), text)
    close(cameras, per_object["camera"], math.inf, CAMERA, "camera")
    close(output.flatten(0, 1), case["unet_out"], NETWORK, NETWORK_ABSOLUTE, "output")


@pytest.mark.parametrize("path", cases("sds*.safetensors"))
def test_background_alignment(path: Path) -> None:
    everything = load_file(path)
    found = [named(everything, key.removesuffix(".rgba")) for key in everything if key.endswith(".rgba")]
    for case in found:
        rgba = case["rgba"].float() / 255
        image = conditioning.over_grey(rgba[..., :3], rgba[..., 3:], case["bg"].mean().item())
        close(255 * image, case["image_composited"].float(), 0, 0, "composited")
        wanted = case["vae_input"][0].permute(1, 2, 0)
        close(conditioning.vae_pixels(image, len(wanted)), wanted, math.inf, CAMERA, "vae_input")


@pytest.mark.parametrize("path", cases("sds*.json"))
def test_schedules(path: Path) -> None:
    config = config_of(path)
    levels = scaled_linear_levels()
    for timestep, alpha_bar in config.get("alphas_cumprod", {}).items():
        assert alpha_bar_from_sigma(levels[int(timestep)]).item() == pytest.approx(alpha_bar, rel=1e-6)
    schedules = {name: Schedule.parse(values) for name, values in config.get("schedule", {}).items()}
    for wanted in config.get("schedule_values", []):
        values = {name.removesuffix("_percent"): schedule(wanted["step"]) for name, schedule in schedules.items()}
        for name, value in values.items():
            if name in ("min_step", "max_step"):
                assert int(len(levels) * value) == wanted[name], (name, wanted)
            else:
                assert value == pytest.approx(wanted[name], rel=1e-6)


@pytest.mark.parametrize("path", cases("preprocess*.safetensors"))
def test_preparation(path: Path) -> None:
    case = load_file(path)
    rgba = case["rgba"].float() / 255
    images = [conditioning.over_grey(rgba[..., :3], rgba[..., 3:], grey / 255) for grey in case["bg_values"].tolist()]
    for image, wanted in zip(images, case["composited"], strict=True):
        close(255 * image, wanted.float(), 0, 0, "composited")
    for key, wanted in case.items():
        if match := re.fullmatch(r"vae_input_(\d+)", key):
            found = conditioning.vae_pixels(images[1], int(match[1])).permute(2, 0, 1)
            close(found, wanted, math.inf, CAMERA, key)
        if match := re.fullmatch(r"clip_input_(\d+)_every_2nd_pixel", key):
            found = conditioning.clip_pixels(images[1], int(match[1]))[0, :, ::2, ::2]
            close(found, wanted, math.inf, 2 * CAMERA, key)  # of sizes up to 2.6


@functools.cache
def manifest() -> tuple[dict[str, list[int]], dict[str, dict[str, list[int]]]]:
    """Return key -> shape of the full-size file: for the network, and for the rest."""
    found = [folder for folder in case_folders() if (folder / "manifest_unet_full.json").is_file()]
    folder = (found or [unpacked(BUNDLED)])[0]
    return config_of(folder / "manifest_unet_full.json"), config_of(folder / "manifest_rest_full.json")


def full_shapes() -> dict[str, list[int]]:
    unet, rest = manifest()
    return unet | {key: shape for part in rest.values() for key, shape in part.items()}


def open_parts(weights: Weights) -> Any:
    return checkpoint.open_parts(weights, 1.0, checkpoint.Elsewhere("", ""))


def test_full_size_keys() -> None:
    """Every weight of the networks has a key of equal shape in the official file, and vice versa."""
    shapes = full_shapes()
    unet, rest = manifest()
    parts = open_parts(Listed(shapes))
    used = {
        name: {key for key, _ in part.sources.values()}
        for name, part in (("unet", parts.unet), ("adaptor", parts.adaptor), ("vae", parts.vae), ("tower", parts.tower))
    }
    assert used["unet"] | used["adaptor"] == set(unet) and len(unet) == 773
    assert len(parts.unet.sources) + len(parts.adaptor.sources) == 777  # 4 of the file hold two of the module
    assert used["vae"] == set(rest["vae"])
    assert used["tower"] == {key for key in rest["clip"] if key.startswith(layout.CLIP)}
    unused = {key for key in shapes if layout.UNUSED.match(key)}
    assert set().union(*used.values()) | unused == set(shapes)
    assert unused == set(rest["buffers"]) | (set(rest["clip"]) - used["tower"])
    modules = [part.module for part in (parts.unet, parts.adaptor)]
    tensors = [tensor for module in modules for tensor in module.state_dict().values()]
    assert all(tensor.is_meta for tensor in tensors), "nothing large is made before it is read"
    assert round(sum(tensor.numel() for tensor in tensors) / 1e6, 1) == 941.7


def test_full_size_keys_of_other_layouts() -> None:
    """The conversion for diffusers has no prefix; MVDream takes no image."""
    unet = manifest()[0]
    weights = Listed({key.removeprefix(PREFIX): shape for key, shape in unet.items()})
    parts = checkpoint.unet_part(weights), checkpoint.adaptor_part(weights, "image_embed.")
    for part in parts:
        part.check()
    assert {key for part in parts for key, _ in part.sources.values()} == set(weights.shapes)
    text = Listed({key: shape for key, shape in unet.items() if "image_embed" not in key and "_ip." not in key})
    part = checkpoint.unet_part(text)
    part.check()
    assert {key for key, _ in part.sources.values()} == set(text.shapes)
    assert layout.mode_of(text, "auto") == "text"


@pytest.mark.parametrize("seed", range(2))
def test_other_files_are_refused(seed: int) -> None:
    """With a missing or misshapen key, it is named."""
    shapes = full_shapes()
    needed = [key for key in shapes if not layout.UNUSED.match(key)]
    key = needed[int(torch.randint(len(needed), (), generator=torch.Generator().manual_seed(seed)))]
    for changed, message in (
        ({k: s for k, s in shapes.items() if k != key}, f"'{re.escape(key)}' is missing"),
        ({**shapes, key: [*shapes[key], 7]}, f"'{re.escape(key)}' has shape {re.escape(str([*shapes[key], 7]))}"),
    ):
        with pytest.raises(InputError, match=message):
            open_parts(Listed(changed))


def test_files_with_more_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"unexpected weight 'model_ema\.decay'"):
        open_parts(Listed({**full_shapes(), "model_ema.decay": []}))
