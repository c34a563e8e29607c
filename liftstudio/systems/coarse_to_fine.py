"""Optimisation in stages, each of which may start from the result of the previous one."""

import copy
import dataclasses
import itertools
from collections.abc import Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import torch

from liftstudio.core.checkpoints import set_generator_state
from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.registry import find, register
from liftstudio.core.schedules import Schedule
from liftstudio.data.cameras import Cameras, concatenate, orbit_cameras
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.geometry.base import PRIOR, Geometry
from liftstudio.geometry.depth_fusion import slenderness
from liftstudio.guidance.base import Guidance
from liftstudio.lights.base import Light
from liftstudio.renderers.scene import Scene
from liftstudio.systems.base import Surface, System
from liftstudio.systems.optimization import ScheduledAdam
from liftstudio.systems.stage import Stage
from liftstudio.systems.stage_config import StageConfig, check_stages, geometry_options, suited_stages, with_sizes

if TYPE_CHECKING:
    from lightning_fabric import Fabric

COVERING_PIXELS = 128  # width and height of the renders from which a geometry starts
THIN = 0.1  # ratio of thickness to length below which a stage may lose an object


def _default(kind: str, name: str) -> ComponentSpec:
    return ComponentSpec(kind, name, find(name, kind).Config())


@register("coarse-to-fine")
class CoarseToFine(System):
    """Optimises one stage after another; a stage's geometry may start from the previous one and keep its appearance."""

    @dataclass
    class Config:
        stages: dict[str, StageConfig]  # name -> stage, in order
        material: Annotated[ComponentSpec, "material"] = field(
            default_factory=lambda: _default("material", "diffuse")
        )  # shared by all stages
        light: Annotated[ComponentSpec, "light"] = field(
            default_factory=lambda: _default("light", "uniform")
        )  # shared by all stages
        background: Annotated[ComponentSpec, "background"] = field(
            default_factory=lambda: _default("background", "solid-color")
        )  # shared by all stages

    light: Light
    stage: Stage  # the current one, from `enter` on

    def __init__(
        self, config: Config, *, views: ReferenceViews | None, device: torch.device, seed: int, fabric: "Fabric"
    ) -> None:
        has_volume = views is not None and views.has_volume
        self.check(config, has_volume=has_volume)
        stages = copy.deepcopy(config.stages)  # `change` changes them; the run's config stays as it is
        suited = suited_stages(stages, has_volume=has_volume)
        width = 0 if views is None else views.cameras.width
        self.config = dataclasses.replace(config, stages=with_sizes(suited, width, "system.stages"))
        self.views, self.device, self.fabric = views, device, fabric
        self.stages = {name: stage.steps for name, stage in self.config.stages.items()}
        self.setup_generator = torch.Generator(device).manual_seed(seed)
        self.generator = torch.Generator(device).manual_seed(seed + 1 + fabric.global_rank)
        self.material = config.material.build().to(device)
        self.light = config.light.build().to(device)
        self.background = config.background.build().to(device)
        self._build_guidance()
        self._check_optimizers()

    @classmethod
    def check(cls, config: Config, *, has_volume: bool) -> None:
        """See `System.check`; the stages that are run can follow each other."""
        check_stages(config.stages, has_volume=has_volume)

    def _build_guidance(self) -> None:
        """Build the guidance of all stages, so that missing files are reported before the long work."""
        self.guidance: dict[str, dict[str, Guidance[Any]]] = {
            name: {key: block.build(views=self.views, device=self.device) for key, block in stage.guidance.items()}
            for name, stage in self.config.stages.items()
        }

    def _check_optimizers(self) -> None:
        """Check the parameter groups of all stages before the long work."""
        for name, stage in self.config.stages.items():
            scene = self._new_scene(name, torch.Generator(self.device))
            try:
                ScheduledAdam(stage.optimizer, scene)
            except InputError as error:
                raise InputError(f"system.stages.{name}.{error}") from None

    def _new_scene(self, stage: str, generator: torch.Generator) -> Scene:
        geometry = geometry_options(self.config.stages, stage).build(device=self.device, generator=generator)
        geometry.key = f"system.stages.{stage}"
        return Scene(geometry, self.material, self.light, self.background).to(self.device)

    def enter(self, stage: str, state: dict[str, Any] | None = None) -> None:
        """See `System.enter`; a geometry with `from` is initialised from the previous stage and its renders."""
        config, scene = self.config.stages[stage], self._new_scene(stage, self.setup_generator)
        if state is not None:
            scene.load_state_dict(state["scene"])
        elif config.geometry.options.from_:
            self._initialize(stage, scene.geometry)
        self.stage = Stage(
            stage,
            config,
            scene=scene,
            guidance=self.guidance[stage],
            steps_before=sum(self.stages[name] for name in itertools.takewhile(lambda n: n != stage, self.stages)),
            fabric=self.fabric,
        )
        if state is not None:
            self.stage.load_state(state)
            for generator, saved in zip((self.setup_generator, self.generator), state["generators"], strict=True):
                set_generator_state(generator, saved)

    def _initialize(self, stage: str, geometry: Geometry) -> None:
        """Initialise the geometry of a stage from the previous one, or from the volume of the prior."""
        from_volume = self.config.stages[stage].geometry.options.from_ == PRIOR
        try:
            self._start_inside(geometry) if from_volume else self._start_from_previous(geometry)
        except InputError as error:
            raise InputError(f"system.stages.{stage}: {error}") from None

    def _start_inside(self, geometry: Geometry) -> None:
        assert self.views is not None and self.views.inside is not None, "checked when the system was built"
        geometry.initialize_inside(self.views.inside)

    def _start_from_previous(self, geometry: Geometry) -> None:
        source, cameras, seen = self._previous_render()
        if not (seen.opacity > 0.5).any():
            raise InputError(self._vanished())
        try:
            geometry.initialize(source, cameras, seen, None if self.views is None else self.views.inside)
        except InputError as error:
            before = f"system.stages.{self.stage.name}.steps={self.stages[self.stage.name]}"
            raise InputError(f"{error} ({before})") from None

    def _vanished(self) -> str:
        """Text for the error when the current stage, which is to be followed by another, shows nothing."""
        before, kind = self.stage.name, self.config.stages[self.stage.name].geometry.type
        share = 1.0 if self.views is None else slenderness(self.views.masks)
        reason = f"stage {before} has lost the object: its opacity is below 0.5 everywhere"
        if share > THIN:
            return f"{reason}; raise system.stages.{before}.steps"
        advice = "; use instant-ngp for this stage, as the config reconstruct-views does" * (kind != "instant-ngp")
        return f"{reason}; the object is thin, about {100 * share:.0f} % of its length in the pictures{advice}"

    def _previous_render(self) -> tuple[Geometry, Cameras, Render]:
        """Return the geometry of the previous stage, and cameras around it with their renders."""
        cameras = self._covering_cameras().to(self.device)
        return self.stage.scene.geometry, cameras, self.stage.render(cameras, frozenset({"depth", "points"}))

    def _covering_cameras(self) -> Cameras:
        """Return cameras that see the object from all sides: the training views if there are several, else orbits."""
        if self.views is not None and len(self.views.training()) > 1:
            cameras = self.views.training().cameras
            shrink = max(1, cameras.width // COVERING_PIXELS)
            return cameras.resized(cameras.height // shrink, cameras.width // shrink)
        azimuth = torch.arange(12) * 30.0
        radius = float(self.stage.scene.geometry.box[1, 0])
        size = COVERING_PIXELS, COVERING_PIXELS
        return concatenate(
            [orbit_cameras(azimuth, azimuth * 0 + elevation, 4 * radius, 35.0, *size) for elevation in (-30, 10, 50)]
        )

    def step(self, step: int) -> dict[str, float]:
        """See `Stage.step`."""
        return self.stage.step(step, self.generator)

    def state(self) -> dict[str, Any]:
        """See `System.state`; the state of the stage and of both generators."""
        return self.stage.state() | {"generators": [self.setup_generator.get_state(), self.generator.get_state()]}

    def render(self, cameras: Cameras, passes: Set[str] = frozenset()) -> Render:
        """See `System.render`; images [B, H, W, C] on the CPU."""
        return self.stage.render(cameras.to(self.device), passes).to("cpu")

    def cameras(self) -> dict[str, Cameras]:
        """See `System.cameras`."""
        return self.stage.cameras

    def schedules(self) -> dict[str, Schedule]:
        """See `System.schedules`: learning rates, and the weights of losses in use."""
        return self.stage.adjustable.schedules()

    def change(self, option: str, schedule: Schedule, step: int) -> None:
        """See `System.change`."""
        self.stage.adjustable.change(option, schedule, step)

    def relight(self, light: Light) -> None:
        """See `System.relight`."""
        self.stage.scene.light = light.to(self.device)

    def surface(self) -> Surface:
        """See `Stage.surface`."""
        return self.stage.surface()
