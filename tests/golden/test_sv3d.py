"""The SV3D port compared with the official code, also on cases in LIFTSTUDIO_GOLDEN.

A case folder has a `config.json` with the networks' sizes (`unet_p`, `unet_u`) and safetensors files; every file whose
name fits a pattern below is a case, and all sizes come from the config and the files.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.golden_data import Listed, files_of, golden_root, parameters
from helpers.paths import GOLDEN
from helpers.seeds import fresh_seed
from helpers.tiny_sv3d import tiny_unet
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from liftstudio.core.errors import InputError
from liftstudio.core.weights import Weights
from liftstudio.methods.sv3d import checkpoint, conditioning, denoising
from liftstudio.methods.sv3d.denoising import triangle
from liftstudio.methods.sv3d.prior import SV3D
from liftstudio.priors.parameterization import v_scaling
from liftstudio.priors.samplers import euler, karras_sigmas

BUNDLED = GOLDEN / "sv3d"
PREFIX = "model.diffusion_model."
SEED = fresh_seed(__name__)
ESTIMATE = 5e-6  # absolute, one evaluation; the official code in float32 differs by 2e-6 to 3e-6 from float64


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def is_case_folder(folder: Path) -> bool:
    config = config_of(folder)
    return isinstance(config, dict) and "cond_aug" in config and any(key.startswith("unet_") for key in config)


def case_folders() -> list[Path]:
    return [path.parent for path in sorted(golden_root(BUNDLED).rglob("config.json")) if is_case_folder(path.parent)]


def cases(pattern: str) -> list[Any]:
    return parameters(path for path in files_of(case_folders(), pattern) if not is_state(path))


def is_state(path: Path) -> bool:
    """Return whether a file holds weights, not a case."""
    if path.suffix != ".safetensors":
        return False
    with safe_open(path, "pt") as file:
        return any(key.startswith(PREFIX) for key in file.keys())  # noqa: SIM118


def variant_of(path: Path) -> str:
    """Return the network of a case: `p` for unet_p_t21, denoiser_p_t21, ..."""
    return path.stem.split("_")[1]


@functools.cache
def network(folder: Path, variant: str, scratch: Path) -> nn.Module:
    """Return the network of a variant with the folder's weights; its own files override the others."""
    files = [path for path in folder.glob("unet_*.safetensors") if is_state(path)]
    state: dict[str, Tensor] = {}
    for path in sorted(files, key=lambda path: (variant_of(path) == variant, path)):
        state |= load_file(path)
    sizes = config_of(folder)[f"unet_{variant}"]
    path = scratch / f"{folder.name}_{variant}.safetensors"
    save_file(state, path, metadata={"num_head_channels": str(sizes["num_head_channels"])})
    unet = checkpoint.unet_part(Weights(path)).load(torch.float32, torch.device("cpu"))
    assert unet.config.layers_per_block == sizes["num_res_blocks"]
    assert list(unet.config.block_out_channels) == [m * sizes["model_channels"] for m in sizes["channel_mult"]]
    assert unet.config.projection_class_embeddings_input_dim == sizes["adm_in_channels"]
    return unet


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sv3d")


def condition_of(case: dict[str, Tensor]) -> Any:
    return denoising.Condition(case["clip_embedding"][0], case["concat_latent"][0])


def largest_difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape and torch.isfinite(a).all()
    return (a - b).abs().max().item()


def test_there_is_a_case() -> None:
    patterns = "unet_*.safetensors", "denoiser_*.safetensors", "sampling_*.safetensors"
    assert any(map(cases, patterns)), f"no case of SV3D in {golden_root(BUNDLED)}"


@pytest.mark.parametrize("path", cases("conditioning*.safetensors"))
def test_conditioning(path: Path) -> None:
    case = load_file(path)
    vectors = [key for key in case if re.search(r"\.vector_\w+$", key)]
    assert vectors
    for key in vectors:
        orbit = key.rpartition(".")[0]
        angles = case[f"{orbit}.elevations_deg"], case[f"{orbit}.azimuths_deg"]
        vector = conditioning.frame_vectors(*angles, case[key].shape[1], case[f"{orbit}.cond_aug"])
        assert largest_difference(vector, case[key]) <= 1e-6, key  # float32 angles up to 2 pi; values within 1


@pytest.mark.parametrize("path", cases("scaling*.safetensors"))
def test_scaling(path: Path) -> None:
    case = load_file(path)
    scaling = v_scaling(case["sigma"])
    for name in ("c_skip", "c_out", "c_in", "c_noise"):
        torch.testing.assert_close(getattr(scaling, name), case[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("path", cases("sigmas*.safetensors"))
def test_noise_levels(path: Path) -> None:
    largest = config_of(path.parent)["sampler"]["params"]["discretization_config"]["params"]["sigma_max"]
    assert largest == SV3D.sigma_max
    for key, expected in load_file(path).items():
        sigmas = karras_sigmas(int(key.removeprefix("steps_")), SV3D.sigma_min, SV3D.sigma_max)
        torch.testing.assert_close(sigmas, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("path", cases("guider*.safetensors"))
def test_guidance_scale(path: Path) -> None:
    most = config_of(path.parent)["sampler"]["params"]["guider_config"]["params"]["max_scale"]
    for key, expected in load_file(path).items():
        scale = triangle(int(key.removeprefix("frames_")), most=most)
        torch.testing.assert_close(scale, expected.reshape(scale.shape), rtol=1e-6, atol=0)


@pytest.mark.parametrize("path", cases("unet_*.safetensors"))
@torch.no_grad()
def test_network(path: Path, scratch: Path) -> None:
    case = load_file(path)
    unet = network(path.parent, variant_of(path), scratch)
    image = case["concat_latent"].expand_as(case["noisy_latents"])
    sample = torch.cat([case["noisy_latents"], image], dim=2)
    output = unet(sample, case["c_noise"], case["clip_embedding"], case["vector"])
    assert largest_difference(output, case["output"]) <= ESTIMATE


@pytest.mark.parametrize("path", cases("denoiser_*.safetensors"))
@torch.no_grad()
def test_denoiser(path: Path, scratch: Path) -> None:
    """With guidance, in one pass and in two, and without."""
    case = load_file(path)
    unet, condition, vectors = network(path.parent, variant_of(path), scratch), condition_of(case), case["vector"]
    scale = case.get("guidance_scale", triangle(len(vectors)))
    branches = {"denoised_cond": condition, "denoised_uncond": condition.unconditional()}
    # u + g (c - u) multiplies errors of c and u by g and g - 1. Officially it is itself 1.1e-5 from its float64 value.
    tolerance = (2 * scale - 1)[:, None, None, None] * ESTIMATE
    for index, sigma in enumerate(case["sigma"].tolist()):
        latents = case["clean_latents"] + sigma * case["noise"]
        for in_one_batch in (True, False):
            guided = denoising.guided_x0(unet, latents, sigma, condition, vectors, scale, in_one_batch=in_one_batch)
            assert ((guided - case["denoised_cfg"][index]).abs() <= tolerance).all(), (sigma, in_one_batch)
        for key, branch in branches.items():
            estimate = denoising.estimate_x0(unet, latents, sigma, [branch], vectors)[0]
            assert largest_difference(estimate, case[key][index]) <= ESTIMATE, (key, sigma)


@pytest.mark.parametrize("path", cases("sampling_*.safetensors"))
@torch.no_grad()
def test_sampling(path: Path, scratch: Path) -> None:
    case = load_file(path)
    unet, condition = network(path.parent, variant_of(path), scratch), condition_of(case)
    vectors, scale = case["vector"], case["guidance_scale"]
    after: list[Tensor] = []
    final = euler(
        lambda z, sigma: denoising.guided_x0(unet, z, sigma, condition, vectors, scale, in_one_batch=False),
        case["noise"],
        case["sigmas"],
        lambda step, latents: after.append(latents),
    )
    for latents, expected in zip(after, case["latents_per_step"], strict=True):
        # Early latents are as large as the noise, up to 3000.
        assert largest_difference(latents, expected) <= 3e-5 * max(1.0, expected.abs().max().item())
    assert largest_difference(final, case["final_latents"]) <= 3e-5  # the official code's own noise is 1.1e-5


def manifests() -> list[Path]:
    return files_of(case_folders(), "manifest_*.json") or files_of([BUNDLED], "manifest_*.json")


VECTOR = f"{PREFIX}label_emb.0.0.weight"


@pytest.mark.parametrize("width", [1280, 256], ids=["p", "u"])
@pytest.mark.parametrize("manifest", manifests(), ids=lambda path: path.stem)
def test_full_size_keys(manifest: Path, width: int) -> None:
    """Every weight of the three full-size networks has a key of equal shape in the official file, and vice versa."""
    shapes = json.loads(manifest.read_text())
    shapes[VECTOR] = [shapes[VECTOR][0], width]
    parts = checkpoint.open_parts(Listed(shapes))
    keys = [{key for key, _ in part.sources.values()} for part in parts]
    prefixes = (PREFIX, "conditioner.embedders.1.", "conditioner.embedders.0.open_clip.model.visual.")
    assert [len(part.module.state_dict()) for part in parts[:2]] == [len(used) for used in keys[:2]]
    for used, prefix in zip(keys, prefixes, strict=True):
        assert used == {key for key in shapes if key.startswith(prefix)}
    tensors = [tensor for part in parts for tensor in part.module.state_dict().values()]
    assert all(tensor.is_meta or tensor.numel() == 1 for tensor in tensors), "nothing large is made before it is read"


@pytest.mark.parametrize("manifest", manifests(), ids=lambda path: path.stem)
def test_other_keys_and_shapes_are_refused(manifest: Path) -> None:
    shapes = json.loads(manifest.read_text())
    last = max(key for key in shapes if key.startswith(PREFIX))
    with pytest.raises(InputError, match=f"the weight '{re.escape(last)}' is missing"):
        checkpoint.open_parts(Listed({key: shape for key, shape in shapes.items() if key != last}))
    with pytest.raises(InputError, match=r"unexpected weight 'model_ema\.decay'"):
        checkpoint.open_parts(Listed({**shapes, "model_ema.decay": []}))
    other = {**shapes, last: [*shapes[last], 7]}
    with pytest.raises(InputError, match=f"'{re.escape(last)}' has shape {re.escape(str(other[last]))}"):
        checkpoint.open_parts(Listed(other))
    with pytest.raises(InputError, match=r"label_emb\.0\.0\.weight' has shape \[\d+, 768\], expected width 1280"):
        checkpoint.open_parts(Listed({**shapes, VECTOR: [shapes[VECTOR][0], 768]}))


DEPTHS = {
    "two blocks, a level without attention": {"channels": (32, 64), "layers": 2, "attends": (True, False)},
    "three levels": {"channels": (32, 32, 64), "layers": 1, "attends": (True, True, False), "head_channels": 8},
    "attention at every level": {"channels": (32, 64), "layers": 1, "attends": (True, True), "vector_width": 256},
    "one level": {"channels": (32,), "layers": 1, "attends": (True,)},
    "attention below only": {"channels": (32, 32), "layers": 2, "attends": (False, True)},
}


@pytest.mark.parametrize("options", DEPTHS.values(), ids=DEPTHS)
@torch.no_grad()
def test_other_depths(options: dict[str, Any], tmp_path: Path) -> None:
    """Sizes are determined by shapes: a network rebuilt from the official layout gives the same output."""
    generator = torch.Generator().manual_seed(SEED)
    unet, state = tiny_unet(generator, **options)
    path = tmp_path / "other.safetensors"
    save_file(state, path, metadata={"num_head_channels": str(options.get("head_channels", 16))})
    part = checkpoint.unet_part(Weights(path))
    assert {key for key, _ in part.sources.values()} == set(state)
    sample, context = torch.randn(1, 3, 8, 8, 8, generator=generator), torch.randn(1, 1, 32, generator=generator)
    vectors = torch.randn(1, 3, options.get("vector_width", 1280), generator=generator)
    loaded = part.load(torch.float32, torch.device("cpu"))
    arguments = (sample, torch.tensor([0.3]), context, vectors)
    # Rounding alone: kernels are chosen by whether weights need gradients. A swapped weight is 1e-2 off.
    torch.testing.assert_close(loaded(*arguments), unet(*arguments), rtol=1e-5, atol=2e-5, msg=f"seed {SEED}")
