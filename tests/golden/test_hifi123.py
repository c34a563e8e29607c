"""Reference-guided enhancement compared with the official release, also on cases in LIFTSTUDIO_GOLDEN.

A case folder has a depth-conditioned network in diffusers' format (`unet/`, five input channels), and beside the cases
`inputs.safetensors` and `schedule.safetensors`; every file whose name fits a pattern below is a case. Sizes and numbers
of steps come from the configs and the files.
"""

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from helpers.golden_data import close, files_of, golden_root, parameters
from helpers.paths import GOLDEN
from helpers.seeds import fresh_seed
from safetensors.torch import load_file
from torch import Tensor

from liftstudio.core.weights import Weights
from liftstudio.methods.hifi123 import ddim, injection, model, rgnv
from liftstudio.priors.latent_diffusion import Part
from liftstudio.priors.samplers import scaled_linear_alpha_bars

BUNDLED = GOLDEN / "hifi123" / "golden.tar.xz"
CPU = torch.device("cpu")
SEED = fresh_seed(__name__)
# Absolute tolerances that the data's own description states. Float32 is 3e-6 from float64 in it without guidance and
# 2.5e-5 with it, and another evaluation of attention 2.6e-5; wrong by one step or one layer is 0.13 and more.
PLAIN, GUIDED = 1e-5, 1e-4
ROUNDING = 1e-6  # of a product of a thousand factors, float32 officially, float64 here
# Stated by the data's README but in no file: guidance scale, and the injected layers and steps.
SCALE, EXCHANGE_SCALE = 7.5, 9.0
START_STEP, EXCHANGE_START_STEP, EXCHANGE_STOP = 4, 2, 6
LAST_LAYERS = 4
Case = dict[str, Tensor]


def is_case_folder(folder: Path) -> bool:
    config = json.loads((folder / "unet" / "config.json").read_text())
    depth_conditioned = isinstance(config, dict) and config.get("in_channels") == config.get("out_channels", 4) + 1
    return depth_conditioned and (folder / "inputs.safetensors").is_file()


def case_folders() -> list[Path]:
    found = (path.parents[1] for path in sorted(golden_root(BUNDLED).rglob("unet/config.json")))
    return [folder for folder in found if is_case_folder(folder)]


def cases(pattern: str) -> list[Any]:
    return parameters(files_of(case_folders(), pattern))


@functools.cache
def unet_of(folder: Path) -> Any:
    config = json.loads((folder / "unet" / "config.json").read_text())
    with torch.device("meta"):
        module = UNet2DConditionModel.from_config(config)
    return Part(module, Weights(next((folder / "unet").glob("*.safetensors"))), {}).load(torch.float32, CPU)


@functools.cache
def grid_of(folder: Path) -> Any:
    """Return the grid by this project's noise schedule."""
    steps = len(load_file(folder / "schedule.safetensors")["timesteps"])
    return ddim.TimestepGrid.of(scaled_linear_alpha_bars(), steps)


@functools.cache
def inputs_of(folder: Path) -> Case:
    return load_file(folder / "inputs.safetensors")


def prompts_of(folder: Path, *, guided: bool) -> Any:
    inputs = inputs_of(folder)
    return model.Prompts(inputs["emb_uncond"], inputs["emb_target" if guided else "emb_uncond"])


def inverted(folder: Path, level: int) -> Tensor:
    """Return the official states [2, 4, h, w] of the reference and the view."""
    case = load_file(folder / "inversion_nocfg.safetensors")
    return torch.stack([case["ref_states"][level], case["novel_states"][level]])


def predictor(folder: Path, *, guided: bool, scale: float, injected: int) -> Any:
    """Return the noise prediction with injection in the last `injected` steps."""
    inputs, grid = inputs_of(folder), grid_of(folder)
    depths = torch.cat([inputs["depth_ref"], inputs["depth_novel"]])
    below = grid.timesteps[injected - 1] + 1 if injected else 0
    prompts = prompts_of(folder, guided=guided)
    return model.beside_reference(unet_of(folder), depths, prompts, scale, below, LAST_LAYERS)


class Recorded:
    """Records a sampler's callbacks: level -> states there, and the noise that led there."""

    def __init__(self) -> None:
        self.states: dict[int, Tensor] = {}
        self.epsilons: dict[int, Tensor] = {}

    def __call__(self, level: int, states: Tensor, epsilon: Tensor) -> None:
        self.states[level], self.epsilons[level] = states, epsilon

    def check_samples(self, case: Case, final: Tensor, predict: Any, tolerance: float) -> None:
        """Compare with a sampling file, whose step i of K leads from level K - i to the next lower one."""
        steps = len(case["unet_timesteps"])
        assert sorted(self.states) == list(range(1, steps)), "the step between equal levels is not evaluated"
        for level, states in {**self.states, 0: final}.items():
            close(states, case["states"][steps - level], tolerance, f"states at level {level}")
        if "eps" in case:
            at_zero = predict(final, int(case["unet_timesteps"][-1]))
            for level, epsilon in {**self.epsilons, 0: at_zero}.items():
                close(epsilon, case["eps"][steps - 1 - level], tolerance, f"noise to level {level}")


def test_there_is_a_case() -> None:
    patterns = "inversion_*.safetensors", "sample_*.safetensors", "attention_unit*.safetensors"
    assert any(map(cases, patterns)), f"no case of HiFi-123 in {golden_root(BUNDLED)}"


@pytest.mark.parametrize("path", cases("schedule*.safetensors"))
def test_schedule(path: Path) -> None:
    case = load_file(path)
    alpha_bars = scaled_linear_alpha_bars()
    close(alpha_bars, case["alphas_cumprod"], ROUNDING, "alphas")
    grid = ddim.TimestepGrid.of(alpha_bars, len(case["timesteps"]))
    assert list(grid.timesteps) == case["timesteps"].flip(0).tolist()
    wanted = torch.cat([case["final_alpha_cumprod"], case["alphas_cumprod"][list(grid.timesteps)]])
    close(torch.tensor(grid.alpha_bars), wanted, ROUNDING, "levels")


@pytest.mark.parametrize("path", cases("schedule*.safetensors"))
def test_steps_of_diffusers(path: Path) -> None:
    """A sampling step equals that of diffusers' scheduler with the configuration beside the case."""
    case, grid = load_file(path), grid_of(path.parent)
    scheduler = DDIMScheduler.from_pretrained(path.parent, subfolder="scheduler")
    scheduler.set_timesteps(grid.steps)
    generator = torch.Generator().manual_seed(SEED)
    state, epsilon = torch.randn(2, 1, 4, 8, 8, generator=generator)
    for step, timestep in enumerate(grid.timesteps):
        found = ddim.sample(lambda *_: epsilon, state, grid, step + 1, step)
        close(found, scheduler.step(epsilon, timestep, state).prev_sample, PLAIN, f"timestep {timestep}, seed {SEED}")
    assert len(case["timesteps"]) == len(scheduler.timesteps)


@pytest.mark.parametrize("path", cases("inversion_*.safetensors"))
@torch.no_grad()
def test_inversion(path: Path) -> None:
    case, folder, guided = load_file(path), path.parent, "_cfg" in path.stem
    inputs, grid = inputs_of(folder), grid_of(folder)
    assert case["unet_timesteps"].tolist() == list(grid.timesteps)
    branches = [key.removesuffix("_states") for key in case if key.endswith("_states")]
    assert branches
    for branch in branches:
        latents, depth = inputs[f"z_{branch}"], inputs[f"depth_{branch}"]
        predict = model.inverting(unet_of(folder), depth, inputs["emb_uncond"])
        if guided:
            prompts = prompts_of(folder, guided=True)
            predict = lambda x, t: model.guided_epsilon(unet_of(folder), x, t, depth, prompts, SCALE)  # noqa: B023, E731
        recorded, tolerance = Recorded(), GUIDED if guided else PLAIN
        states = ddim.invert(predict, latents, grid, grid.steps, recorded)
        close(states[:, 0], case[f"{branch}_states"], tolerance, f"{branch} states")
        epsilons = [predict(latents, grid.timesteps[0]), *recorded.epsilons.values()]
        close(torch.cat(epsilons), case[f"{branch}_eps"], tolerance, f"{branch} noise")


def is_plain_sampling(path: Path) -> bool:
    return not re.search("refstored|exchange", path.stem)


@pytest.mark.parametrize("path", [case for case in cases("sample_*.safetensors") if is_plain_sampling(case.values[0])])
@torch.no_grad()
def test_paired_sampling(path: Path) -> None:
    """sample_[sym_]<cfg or nocfg>_<inject or plain>: all steps of the grid, or the last ones, all with injection."""
    case, folder, grid = load_file(path), path.parent, grid_of(path.parent)
    steps, guided = len(case["unet_timesteps"]), "_cfg" in path.stem
    form = rgnv.Form
    form = form.symmetric(steps) if "_sym" in path.stem else form.full_range(steps, START_STEP)
    assert list(grid.timesteps[steps - 1 :: -1]) == case["unet_timesteps"].tolist()
    injected = form.injected if "inject" in path.stem else 0
    predict = predictor(folder, guided=guided, scale=SCALE if guided else 1.0, injected=injected)
    recorded = Recorded()
    final = ddim.sample(predict, inverted(folder, steps), grid, form.levels, on_step=recorded)
    recorded.check_samples(case, final, predict, GUIDED if guided else PLAIN)


@pytest.mark.parametrize("path", cases("sample_*refstored*.safetensors"))
@torch.no_grad()
def test_stored_reference_beside(path: Path) -> None:
    """The reference is set to its inversion state before every step."""
    case, folder, grid = load_file(path), path.parent, grid_of(path.parent)
    guided = "_cfg" in path.stem
    predict = predictor(folder, guided=guided, scale=SCALE if guided else 1.0, injected=max(grid.steps - START_STEP, 0))
    recorded, novel = Recorded(), inverted(folder, grid.steps)[1:]
    for level in reversed(range(grid.steps)):
        both = torch.cat([inverted(folder, level + 1)[:1], novel])
        both = ddim.sample(predict, both, grid, level + 1, level, recorded)
        novel = both[1:]
    recorded.check_samples(case, both, predict, GUIDED if guided else PLAIN)


@pytest.mark.parametrize("path", cases("sample_*_inject*.safetensors"))
@torch.no_grad()
def test_enhancement_with_cached_reference(path: Path) -> None:
    """From clean latents to the end by the public functions, with the reference evaluated once, separately."""
    case, folder, grid = load_file(path), path.parent, grid_of(path.parent)
    steps, guided = len(case["unet_timesteps"]), "_cfg" in path.stem
    scale, form = SCALE if guided else 1.0, rgnv.Form
    form = form.symmetric if "_sym" in path.stem else functools.partial(form.full_range, start_step=START_STEP)
    form = form(steps, guidance_scale=scale, last_layers=LAST_LAYERS)
    inputs, prompts = inputs_of(folder), prompts_of(folder, guided=guided)
    stored = "refstored" in path.stem
    reference = rgnv.prepare_reference(
        unet_of(folder), inputs["z_ref"], inputs["depth_ref"], inputs["emb_uncond"], grid, form, stored=stored
    )
    recorded = Recorded()
    arguments = unet_of(folder), inputs["z_novel"], inputs["depth_novel"], prompts, reference, grid, form, recorded
    final = rgnv.enhance(*arguments)
    for level, state in {**recorded.states, 0: final}.items():
        close(state[0], case["states"][steps - level, 1], GUIDED if guided else PLAIN, f"level {level}")


@pytest.mark.parametrize("path", cases("sample_release_exchange*.safetensors"))
@torch.no_grad()
def test_exchange_of_the_release(path: Path) -> None:
    """Both start as the reference; the view, of a level that is two steps too high, is inserted on the way."""
    case, folder, grid = load_file(path), path.parent, grid_of(path.parent)
    inputs = inputs_of(folder)
    inverting = model.inverting(unet_of(folder), inputs["depth_novel"], inputs["emb_uncond"])
    novel = ddim.invert(inverting, inputs["z_novel"], grid, EXCHANGE_STOP + 1)[-1]
    close(novel, case["xt"], PLAIN, "xt")
    predict = predictor(folder, guided=True, scale=EXCHANGE_SCALE, injected=grid.steps - EXCHANGE_START_STEP)
    recorded, level = Recorded(), EXCHANGE_STOP - 1
    reference, mask = inverted(folder, grid.steps)[:1], inputs["mask_novel"]
    final = rgnv.sample_with_exchange(predict, reference, novel, mask, grid, level, recorded)
    before = recorded.states[level]
    recorded.states[level] = torch.cat([before[:1], mask * novel + (1 - mask) * before[1:]])  # the file has those after
    recorded.check_samples(case, final, predict, GUIDED)


def attention_inputs(unet: Any, call: Callable[[], Any], numbers: list[int]) -> tuple[Any, dict[int, Tensor], Any]:
    """Return the result of `call`, and input and output of the numbered self-attention layers."""
    into: dict[int, Tensor] = {}
    out: dict[int, Tensor] = {}
    layers = [attention for _, attention in injection.self_attentions(unet)]

    def keep(number: int) -> Any:
        def hook(module: Any, arguments: tuple[Tensor, ...], keywords: dict[str, Any], output: Tensor) -> None:
            into[number], out[number] = arguments[0], output

        return layers[number].register_forward_hook(hook, with_kwargs=True)

    hooks = [keep(number) for number in numbers]
    try:
        return call(), into, out
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("path", cases("attention_unit*.safetensors"))
@torch.no_grad()
def test_attention(path: Path) -> None:
    """One network call, and single layers in it, with and without the reference's keys and values."""
    case, folder = load_file(path), path.parent
    unet, inputs = unet_of(folder), inputs_of(folder)
    texts = torch.cat([inputs["emb_uncond"]] * 3 + [inputs["emb_target"]])
    numbers = sorted({int(match[1]) for key in case if (match := re.match(r"layer(\d+)_", key))})
    assert numbers and min(numbers) == len(injection.self_attentions(unet)) - LAST_LAYERS

    def call() -> Tensor:
        states, depths = case["unet_in"].split([4, 1], dim=1)
        return model.estimate_epsilon(unet, states, int(case["unet_timestep"]), depths, texts)

    plain, _, plain_out = attention_inputs(unet, call, numbers)
    with injection.injection(unet, LAST_LAYERS):
        injected, into, out = attention_inputs(unet, call, numbers)
    close(plain, case["unet_out_plain"], PLAIN, "plain")
    close(injected, case["unet_out_inject"], PLAIN, "injected")
    for number in numbers:
        layer = injection.self_attentions(unet)[number][1]
        hidden = case[f"layer{number}_hidden_states"]
        close(into[number], hidden, PLAIN, f"hidden states of layer {number}")
        close(out[number], case[f"layer{number}_out_inject"], PLAIN, f"layer {number}, injected")
        with injection.injection(unet, LAST_LAYERS):
            close(layer(hidden), case[f"layer{number}_out_inject"], PLAIN, f"layer {number} alone, injected")
        if f"layer{number}_out_plain" in case:
            close(plain_out[number], case[f"layer{number}_out_plain"], PLAIN, f"layer {number}, plain")
