"""Plans: how much memory each phase of a run takes at its peak, and what for, before the run.

Large networks pass fake tensors, which have shapes but no numbers. What the scene takes depends on numbers, such as how
much of a picture the object covers, so a few steps of each stage are really done, on the CPU, from views of a ball.
"""

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from liftstudio.core.allocations import Allocations
from liftstudio.core.checkpoints import seed_everything
from liftstudio.core.config import ComponentSpec, to_plain
from liftstudio.core.devices import planned_for
from liftstudio.core.errors import InputError
from liftstudio.core.logs import warnings_only
from liftstudio.core.memory import memory_high_water_gb, memory_options
from liftstudio.geometry.base import PRIOR
from liftstudio.priors.latent_diffusion import fake_weights
from liftstudio.priors.opening import built_by
from liftstudio.priors.rehearsal import CONDITIONING, DECODING, DENOISING, ENCODING, Rehearsal
from liftstudio.run.config import RunConfig
from liftstudio.run.inputs import Inputs
from liftstudio.run.run import make_deterministic, make_fabric
from liftstudio.systems.coarse_to_fine import CoarseToFine
from liftstudio.systems.stage_config import StageConfig, geometry_options

CPU = torch.device("cpu")
VIEWS, START = "views", "start"
PARTS = ("weights", "optimizer", "caches", "activations", "program")  # of a peak
CONTEXT = 0.5e9  # bytes that CUDA itself takes on the card
BALL_RADIUS = 0.86  # of half the side of a grid that is fitted to its shape
SAMPLER_STEPS = 2  # of a rehearsal; all take the same memory
# Work at a peak -> end of the options that lower it; for other work see `memory_options`.
OPTIONS = {ENCODING: "encoder_chunk", DECODING: "chunk"}


@dataclass(frozen=True)
class Phase:
    """Peak memory of a phase of a run, in bytes.

    name:        "views"; "start", when the networks of all stages are loaded; or the name of a stage.
    weights:     of networks and of the scene.
    optimizer:   gradients and running means.
    caches:      what else is kept between steps: views, grids, the encoded input image.
    activations: what a step takes for a moment.
    program:     what is no tensor: libraries on the CPU, CUDA's context on a card.
    during:      the work at the peak, if it has a name.
    """

    name: str
    weights: float
    optimizer: float
    caches: float
    activations: float
    program: float
    during: str

    @property
    def total(self) -> float:
        """All together."""
        return self.weights + self.optimizer + self.caches + self.activations + self.program


def plan(config: RunConfig, kind: str) -> list[Phase]:
    """Return the peaks of a run's phases on a kind of device, "cpu" or "cuda"; this takes seconds to a minute or two.

    Test and export are not planned.

    Raises:
        InputError: as a run with this config; or the run decides by numbers that its large networks make.
    """
    rehearsal, phases = Rehearsal(Allocations()), list[Phase]()
    with _rehearsing(rehearsal, kind):
        try:
            phases.extend(_phases(config, rehearsal, kind))
        except DataDependentOutputException:
            known = ", ".join(phase.name for phase in phases) or "nothing"
            raise InputError(
                f"--plan: this run looks at numbers that its large networks make, which a plan does not know; "
                f"planned so far: {known}; leave out the guidance that follows"
            ) from None
    return phases


@contextmanager
def _rehearsing(rehearsal: Rehearsal, kind: str) -> Iterator[None]:
    with ExitStack() as stack:
        for context in (fake_weights(), built_by(rehearsal.build), planned_for(kind), warnings_only()):
            stack.enter_context(context)
        stack.enter_context(rehearsal.allocations)
        yield


def _uncached(views: ComponentSpec | None) -> ComponentSpec | None:
    """Return options by which a prior makes views anew, in few steps; those of a capture stay as they are."""
    if views is None or not hasattr(views.options, "cache"):
        return views
    return replace(views, options=replace(views.options, cache=False, steps=SAMPLER_STEPS))


def _phases(config: RunConfig, rehearsal: Rehearsal, kind: str) -> Iterator[Phase]:
    inputs = Inputs.load(_uncached(config.views), CPU)
    if config.views is not None:
        yield _before_stages(VIEWS, rehearsal, kind)
    seed_everything(config.seed)
    make_deterministic(CPU)
    system: CoarseToFine = _from_balls(config.system).build(
        views=inputs.views, device=CPU, seed=config.seed, fabric=make_fabric("cpu", None)
    )
    yield _before_stages(START, rehearsal, kind)
    for name, stage in system.config.stages.items():
        yield _stage_phase(name, stage, system, rehearsal, kind)


def _before_stages(name: str, rehearsal: Rehearsal, kind: str) -> Phase:
    counted, weights = rehearsal.allocations, rehearsal.most
    peak, during = counted.peak, counted.during
    gc.collect()  # the prior, which refers to itself while it is rehearsed
    caches = max(0, counted.live - rehearsal.weights)
    counted.restart()
    return Phase(name, weights, 0, caches, peak - weights - caches, _program(counted, kind), during)


def _stage_phase(name: str, stage: StageConfig, system: CoarseToFine, rehearsal: Rehearsal, kind: str) -> Phase:
    """Rehearse a stage, and return its highest peak."""
    system.enter(name)
    peaks = [_peak(name, system, rehearsal, kind)]
    for step in _telling_steps(stage):
        system.stage.pixels.clear()  # this machine's memory does not matter
        system.step(step)
        peaks.append(_peak(name, system, rehearsal, kind))
    return max(peaks, key=lambda phase: phase.total)


def _from_balls(system: ComponentSpec) -> ComponentSpec:
    """Return options by which a stage that would start from a trained one starts from a ball instead, if it can."""
    stages = dict(system.options.stages)
    for name, stage in system.options.stages.items():
        geometry = geometry_options(system.options.stages, name)
        if geometry.options.from_ not in ("", PRIOR) and hasattr(geometry.options, "sphere_radius"):
            own_cells = {"subdivide": False} if hasattr(geometry.options, "subdivide") else {}
            ball = replace(geometry.options, from_="", sphere_radius=BALL_RADIUS, **own_cells)
            stages[name] = replace(stage, geometry=replace(geometry, options=ball))
    return replace(system, options=replace(system.options, stages=stages))


def _telling_steps(stage: StageConfig) -> list[int]:
    """Return the steps at which the memory of a stage may change: the first, and those that options name.

    There is one more after the first, since Adam's means exist from then on.
    """
    steps = {0}
    for options in (block.options for block in stage.guidance.values()):
        values = {field.name: getattr(options, field.name) for field in fields(options)}
        steps |= {values["start"], *(step for key in values if key.endswith("_milestones") for step in values[key])}
    found = sorted(step for step in steps if step < stage.steps)
    return found if len(found) > 1 else [0, stage.steps - 1]


def _peak(name: str, system: CoarseToFine, rehearsal: Rehearsal, kind: str) -> Phase:
    counted, scene = rehearsal.allocations, system.stage.scene
    parameters = sum(each.nbytes for each in scene.parameters())
    weights, means = rehearsal.weights + parameters, _bytes(system.stage.optimizer.adam.state)
    caches = max(0, counted.live - weights - means)
    optimizer = means + (parameters if means else 0)
    activations = max(0, counted.peak - weights - optimizer - caches)
    during = counted.during
    counted.restart()
    return Phase(name, weights, optimizer, caches, activations, _program(counted, kind), during)


def _bytes(state: dict[Any, Any]) -> int:
    return sum(value.nbytes for kept in state.values() for value in kept.values() if isinstance(value, torch.Tensor))


def _program(counted: Allocations, kind: str) -> float:
    """Return the memory of this process that is no tensor; on a card CUDA's context."""
    if kind == "cuda":
        return CONTEXT
    return max(0.0, memory_high_water_gb().get("memory_gb", 0.0) * 1e9 - counted.real_peak)


def advice(config: RunConfig, phase: Phase) -> list[str]:
    """Return what lowers the peak of a phase, "key=lower value (now value)", what saves most first."""
    plain = to_plain(config)
    key = {VIEWS: VIEWS, START: "system"}.get(phase.name, f"system.stages.{phase.name}")
    known = [text for _, text in sorted(memory_options(plain, key), reverse=True)]
    if phase.during in (DENOISING, CONDITIONING):
        return [f"{key}.prior.precision=float16"] if phase.name == VIEWS else []
    wanted = OPTIONS.get(phase.during)
    return [text for text in known if wanted is None or text.partition("=")[0].endswith(f".{wanted}")]
