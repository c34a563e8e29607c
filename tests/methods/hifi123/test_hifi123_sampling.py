"""DDIM in both directions, guidance, and enhancement compared with plain compositions of the same steps."""

from typing import Any

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_hifi123 import WIDTH, tiny_unet
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.methods.hifi123 import ddim, injection, model, rgnv
from liftstudio.priors.classifier_free import guided
from liftstudio.priors.samplers import scaled_linear_alpha_bars

SEED = fresh_seed(__name__)
EXACT = {"rtol": 1e-9, "atol": 1e-9}  # float64, several steps


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def grid(steps: int) -> Any:
    return ddim.TimestepGrid.of(scaled_linear_alpha_bars(), steps)


def randn(*shape: int, draws: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=draws, dtype=torch.float64)


class Scene:
    """A random network in float64, a reference, two views, prompts."""

    def __init__(self) -> None:
        draws = generator()
        self.unet = tiny_unet(draws).double()
        self.latents, self.depths = randn(3, 4, 8, 8, draws=draws), randn(3, 1, 8, 8, draws=draws)
        self.prompts = model.Prompts(randn(1, 5, WIDTH, draws=draws), randn(1, 5, WIDTH, draws=draws))
        self.calls: list[tuple[int, int]] = []  # batch size and timestep of each network call
        self.unet.register_forward_pre_hook(lambda _, given: self.calls.append((len(given[0]), int(given[1]))))

    def prepared(self, levels: Any, form: Any, **options: Any) -> Any:
        first = self.latents[:1], self.depths[:1], self.prompts.empty
        return rgnv.prepare_reference(self.unet, *first, levels, form, **options)

    def enhanced(self, levels: Any, form: Any, **options: Any) -> Tensor:
        views = self.latents[1:], self.depths[1:], self.prompts
        return rgnv.enhance(self.unet, *views, self.prepared(levels, form, **options), levels, form)


def test_grid() -> None:
    """As in the release: equal steps from 0, and two levels of the lowest noise."""
    levels, alpha_bars = grid(50), scaled_linear_alpha_bars()
    assert levels.steps == 50 and levels.timesteps == tuple(range(0, 1000, 20))
    assert len(levels.alpha_bars) == 51 and levels.alpha_bars[0] == levels.alpha_bars[1]
    torch.testing.assert_close(torch.tensor(levels.alpha_bars[1:], dtype=torch.float64), alpha_bars[::20])
    assert grid(7).timesteps[-1] == 6 * 142
    for steps in (1, 1001):
        with pytest.raises(InputError, match=f"steps: expected 2 to 1000, got {steps}"):
            grid(steps)


def test_directions_are_inverse() -> None:
    """With noise that does not depend on the state, inversion and sampling cancel."""
    levels, draws, told = grid(20), generator(), {"up": list[int](), "down": list[int]()}
    noise, latents = randn(1000, 2, 4, 4, 4, draws=draws), randn(2, 4, 4, 4, draws=draws)

    def predict(direction: str) -> Any:
        return lambda _, timestep: told[direction].append(timestep) or noise[timestep]

    states = ddim.invert(predict("up"), latents, levels, 13)
    assert states.shape == (14, 2, 4, 4, 4) and states[0].equal(latents) and states[1].equal(latents)
    final = ddim.sample(predict("down"), states[-1], levels, 13)
    torch.testing.assert_close(final, latents, **EXACT)
    assert told["up"] == list(levels.timesteps[1:13]) == told["down"][::-1]


@pytest.mark.parametrize("deviation", [0.5, 2.0])
def test_inversion_of_a_known_distribution(deviation: float) -> None:
    """For normal data noise and flow are known: states stay at the same number of standard deviations."""
    alpha_bars, levels = scaled_linear_alpha_bars().double(), grid(1000)

    def predict(state: Tensor, timestep: int) -> Tensor:
        alpha_bar = alpha_bars[timestep]
        return (1 - alpha_bar).sqrt() * state / (alpha_bar * deviation**2 + 1 - alpha_bar)

    latents = deviation * randn(1, 4, 8, 8, draws=generator())
    final = ddim.invert(predict, latents, levels, 1000)[-1]
    alpha_bar = levels.alpha_bars[-1]
    expected = latents * (alpha_bar * deviation**2 + 1 - alpha_bar) ** 0.5 / deviation
    # First-order error: about 1 % at 1000 steps. With the sign or levels of sampling mixed up it is 50 %.
    torch.testing.assert_close(final, expected, rtol=0.03, atol=0)


def test_sampling_in_parts() -> None:
    """One call, two calls and single steps agree; the callback's values are consistent."""
    levels, draws = grid(10), generator()
    state, mix = randn(1, 4, 4, 4, draws=draws), randn(4, 4, draws=draws) / 4
    predict = lambda x, t: torch.einsum("ij,bjhw->bihw", mix, x) * t / 1000  # noqa: E731
    told: dict[int, tuple[Tensor, Tensor]] = {}
    whole = ddim.sample(predict, state, levels, 9, 2, lambda level, *others: told.update({level: others}))
    assert list(told) == [8, 7, 6, 5, 4, 3, 2] and told[2][0].equal(whole)
    assert ddim.sample(predict, ddim.sample(predict, state, levels, 9, 5), levels, 5, 2).equal(whole)
    before = state
    for level, (after, epsilon) in told.items():
        alpha_bars = levels.alpha_bars[level + 1], levels.alpha_bars[level]
        assert epsilon.equal(predict(before, levels.timesteps[level]))
        clean = [ddim.clean_latents(x, epsilon, a) for x, a in zip((before, after), alpha_bars, strict=True)]
        torch.testing.assert_close(*clean, **EXACT)
        noisy = alpha_bars[1] ** 0.5 * clean[0] + (1 - alpha_bars[1]) ** 0.5 * epsilon
        torch.testing.assert_close(after, noisy, **EXACT)
        before = after
    assert ddim.sample(predict, state, levels, 1).equal(state), "levels 0 and 1 are the same"


def test_levels_out_of_the_grid() -> None:
    state = torch.zeros(1, 4, 2, 2)
    with pytest.raises(InputError, match="levels: expected 1 to 10, got 11"):
        ddim.invert(lambda x, t: x, state, grid(10), 11)
    with pytest.raises(InputError, match="start: expected 0 to 10, got 11"):
        ddim.sample(lambda x, t: x, state, grid(10), 11)
    with pytest.raises(InputError, match="stop: expected 0 to 4, got 5"):
        ddim.sample(lambda x, t: x, state, grid(10), 4, 5)
    with pytest.raises(InputError, match="injected: expected 0 to 10, got 11"):
        rgnv.Form.full_range(10, -1)


def test_gradients_end_here() -> None:
    latents = torch.randn(1, 4, 2, 2, requires_grad=True)
    states = ddim.invert(lambda x, t: 2 * x, latents, grid(5), 5)
    assert not states.requires_grad
    assert not ddim.sample(lambda x, t: 2 * x, latents, grid(5), 5).requires_grad


@pytest.mark.parametrize("references", [0, 1])
@pytest.mark.parametrize("scale", [1.0, 7.5])
@torch.no_grad()
def test_guidance(scale: float, references: int) -> None:
    """One call equals separate calls, with the reference evaluated once."""
    scene = Scene()
    arguments = scene.unet, scene.latents, 300, scene.depths
    found = model.guided_epsilon(*arguments, scene.prompts, scale, references)
    views = 3 - references
    assert scene.calls == [(references + views * (1 if scale == 1 else 2), 300)]
    empty, target = (
        model.estimate_epsilon(*arguments, text.expand(3, -1, -1))
        for text in (scene.prompts.empty, scene.prompts.target)
    )
    expected = guided(target, empty, torch.full((3,), scale))
    expected[:references] = empty[:references]
    torch.testing.assert_close(found, expected, **EXACT, msg=f"seed {SEED}")


@pytest.mark.parametrize("scale", [1.0, 7.5])
@torch.no_grad()
def test_the_reference_is_evaluated_once(scale: float) -> None:
    """Equals the release's batch of four, in which each half of guidance has its own reference."""
    scene = Scene()
    depths, states, texts = scene.depths[:2], scene.latents[:2], scene.prompts
    predict = model.beside_reference(scene.unet, depths, texts, scale, 301, last_layers=3)
    found = predict(states, 300)
    with injection.injection(scene.unet, 3):  # the first of the batch is the reference of both halves
        four = torch.cat([texts.empty, texts.empty, texts.empty, texts.target])
        every = model.estimate_epsilon(scene.unet, states.repeat(2, 1, 1, 1), 300, depths.repeat(2, 1, 1, 1), four)
    empty, target = every.chunk(2)
    torch.testing.assert_close(found, empty + scale * (target - empty), **EXACT, msg=f"seed {SEED}")
    never = model.beside_reference(scene.unet, depths, texts, scale, 300, last_layers=3)
    assert (never(states, 300) - found)[1:].abs().max() > 1e-3, "the reference has no effect"


FORMS = {
    "symmetric": ("symmetric", (5,)),
    "full range": ("full_range", (8, 3)),
    "never injected": ("full_range", (8, 8)),
}


@pytest.mark.parametrize(("form", "options"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "drifting"])
@torch.no_grad()
def test_enhancement(form: str, options: tuple[int, ...], stored: bool) -> None:
    """A cached reference and one in the batch give the same result, for several views at once."""
    scene, levels = Scene(), grid(8)
    wanted = getattr(rgnv.Form, form)(*options, guidance_scale=3.0, last_layers=3)
    inverting = model.inverting(scene.unet, scene.depths, scene.prompts.empty)
    states = ddim.invert(inverting, scene.latents, levels, wanted.levels)
    below = levels.timesteps[wanted.injected - 1] + 1 if wanted.injected else 0
    predict = model.beside_reference(scene.unet, scene.depths, scene.prompts, 3.0, below, 3)
    both = states[-1]
    for level in reversed(range(wanted.levels)):
        if stored:
            both = torch.cat([states[level + 1][:1], both[1:]])
        both = ddim.sample(predict, both, levels, level + 1, level)
    scene.calls.clear()
    enhanced = scene.enhanced(levels, wanted, stored=stored)
    torch.testing.assert_close(enhanced, both[1:], **EXACT, msg=f"seed {SEED}")
    real = wanted.levels - 1  # evaluated steps; with stored states, only the injected ones for the reference
    walked = max(wanted.injected - 1, 0) if stored else real
    batches = [batch for batch, _ in scene.calls]
    assert batches == [1] * (real + walked) + [2] * real + [4] * real
    assert scene.enhanced(levels, wanted, stored=stored).equal(enhanced), "several calls are equal"


@torch.no_grad()
def test_views_do_not_depend_on_one_another() -> None:
    scene, levels = Scene(), grid(6)
    form = rgnv.Form.symmetric(4, last_layers=2)
    reference, every = scene.prepared(levels, form), scene.enhanced(levels, form)
    for view in (1, 2):
        alone = scene.latents[view : view + 1], scene.depths[view : view + 1], scene.prompts
        found = rgnv.enhance(scene.unet, *alone, reference, levels, form)
        torch.testing.assert_close(found, every[view - 1 : view], **EXACT, msg=f"seed {SEED}")


def test_missing_layers_are_refused_before_the_work() -> None:
    scene = Scene()
    form = rgnv.Form.symmetric(4, last_layers=9)
    with pytest.raises(InputError, match="last_layers: expected 1 to 7, the UNet's self-attention layers, got 9"):
        scene.prepared(grid(6), form)
    assert not scene.calls


@pytest.mark.parametrize("inside", [0.0, 1.0])
@torch.no_grad()
def test_exchange(inside: float) -> None:
    """With an empty mask the reference continues; with a full one, views are as if started at that level."""
    scene, levels = Scene(), grid(8)
    inverting = model.inverting(scene.unet, scene.depths, scene.prompts.empty)
    states = ddim.invert(inverting, scene.latents, levels, 8)
    reference, novel, mask = states[8][:1], states[5][1:], torch.full((2, 1, 8, 8), inside, dtype=torch.float64)
    alike = torch.cat([scene.depths[:1]] * 3), model.Prompts(*[scene.prompts.empty] * 2)
    predict = model.beside_reference(scene.unet, *alike, 1.0, 700, 3)
    final = rgnv.sample_with_exchange(predict, reference, novel, mask, levels, 5)
    at_exchange = ddim.sample(predict, reference.expand(3, -1, -1, -1), levels, 8, 5)
    begun = torch.cat([at_exchange[:1], novel]) if inside else at_exchange
    torch.testing.assert_close(final, ddim.sample(predict, begun, levels, 5), **EXACT, msg=f"seed {SEED}")
    assert ((final[1] - final[0]).abs().max() > 1e-3) == bool(inside)
