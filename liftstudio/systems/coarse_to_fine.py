"""Stages one after the other, each starting from what the one before has found."""

import dataclasses
import itertools
from collections.abc import Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from liftstudio.core.config import Block
from liftstudio.core.errors import InputError
from liftstudio.core.memory import check_growth
from liftstudio.core.ranges import PositiveInt
from liftstudio.core.registry import find, register
from liftstudio.data.cameras import Cameras, concatenate, orbit_cameras
from liftstudio.data.mesh import Mesh
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.geometry.base import Geometry
from liftstudio.guidance.base import Guidance
from liftstudio.renderers.base import Renderer
from liftstudio.renderers.scene import Scene
from liftstudio.systems import regularizers
from liftstudio.systems.base import Surface, System
from liftstudio.systems.optimization import OptimizerConfig, ScheduledAdam
from liftstudio.systems.regularizers import Regularizers

if TYPE_CHECKING:
    from lightning_fabric import Fabric


Weighted = dict[str, tuple[float, Tensor]]  # loss name in the logs -> weight, value


@dataclass
class StageConfig:
    """One stage: what is optimised, how it is rendered and what judges it."""

    steps: PositiveInt  # optimisation steps
    geometry: Annotated[Block, "geometry"]  # the shape
    renderer: Annotated[Block, "renderer"]  # how it is rendered
    guidance: dict[str, Annotated[Block, "guidance"]]  # name in the logs -> what judges the renders
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # learning rates
    regularizers: Regularizers = field(default_factory=Regularizers)  # losses beside those of the guidance


def _default(kind: str, name: str) -> Block:
    return Block(kind, name, find(name, kind).Config())


@register("coarse-to-fine")
class CoarseToFine(System):
    """Optimises stage after stage; a stage's geometry may start from the one before and keeps its appearance."""

    @dataclass
    class Config:
        stages: dict[str, StageConfig]  # name -> stage, in order
        material: Annotated[Block, "material"] = field(
            default_factory=lambda: _default("material", "diffuse")
        )  # shared by all stages
        light: Annotated[Block, "light"] = field(
            default_factory=lambda: _default("light", "uniform")
        )  # shared by all stages
        background: Annotated[Block, "background"] = field(
            default_factory=lambda: _default("background", "solid-color")
        )  # shared by all stages

    def __init__(
        self, config: Config, *, views: ReferenceViews | None, device: torch.device, seed: int, fabric: "Fabric"
    ) -> None:
        self.config = config
        self.views, self.device, self.fabric = views, device, fabric
        self.stages = {name: stage.steps for name, stage in config.stages.items()}
        _check_stages(config.stages)
        self.setup_generator = torch.Generator(device).manual_seed(seed)
        self.generator = torch.Generator(device).manual_seed(seed + 1 + fabric.global_rank)
        self.material = config.material.build().to(device)
        self.light = config.light.build().to(device)
        self.background = config.background.build().to(device)
        self.pixels: dict[tuple[str, str], int] = {}  # (stage, guidance) -> most pixels rendered at once so far
        self.scene: Scene | None = None
        self._build_guidance()
        self._check_optimizers()

    def _build_guidance(self) -> None:
        """All stages' guidance at once, so that what is missing is said before the long work."""
        self.guidance: dict[str, dict[str, Guidance]] = {
            name: {key: block.build(views=self.views, device=self.device) for key, block in stage.guidance.items()}
            for name, stage in self.config.stages.items()
        }

    def enter(self, stage: str, state: dict[str, Any] | None = None) -> None:
        """See `System.enter`. The geometry of a stage with `from` is initialised from renders of the stage before."""
        previous = self._previous_render(stage) if state is None else None
        config = self.config.stages[stage]
        self.stage, self.scene = stage, self._new_scene(stage, self.setup_generator)
        before = itertools.takewhile(lambda name: name != stage, self.stages)
        self.steps_before = sum(self.stages[name] for name in before)
        if previous is not None:
            self.scene.geometry.initialize(*previous)
        if state is not None:
            self.scene.load_state_dict(state["scene"])
        self.renderer: Renderer = config.renderer.build(box=self.scene.geometry.box)  # the box is the final one now
        self.optimizer = ScheduledAdam(config.optimizer, self.scene)
        if state is not None:
            self._restore(state)

    def _new_scene(self, stage: str, generator: torch.Generator) -> Scene:
        geometry = _geometry_options(self.config.stages, stage).build(device=self.device, generator=generator)
        return Scene(geometry, self.material, self.light, self.background).to(self.device)

    def _check_optimizers(self) -> None:
        """Say which parameter group does not exist before the long work, whichever stage has it."""
        for name, stage in self.config.stages.items():
            scene = self._new_scene(name, torch.Generator(self.device))
            try:
                ScheduledAdam(stage.optimizer, scene)
            except InputError as error:
                raise InputError(f"system.stages.{name}.{error}") from None

    def _previous_render(self, stage: str) -> tuple[Geometry, Cameras, Render] | None:
        if not self.config.stages[stage].geometry.options.from_:
            return None
        assert self.scene is not None
        cameras = self._covering_cameras().to(self.device)
        seen = self._render(cameras, frozenset({"depth", "points"}))
        return self.scene.geometry, cameras, seen

    def _covering_cameras(self) -> Cameras:
        """Where the object was supervised from: the training views if there are several, else orbits around it."""
        if self.views is not None and len(self.views.training()) > 1:
            cameras = self.views.training().cameras
            shrink = max(1, cameras.width // 128)
            return cameras.resized(cameras.height // shrink, cameras.width // shrink)
        azimuth = torch.arange(12) * 30.0
        radius = float(self.scene.geometry.box[1, 0])  # type: ignore[union-attr]
        return concatenate(
            [orbit_cameras(azimuth, azimuth * 0 + elevation, 4 * radius, 35.0, 128, 128) for elevation in (-30, 10, 50)]
        )

    def step(self, step: int) -> dict[str, float]:
        """See `System.step`: renders what each active guidance asks for, sums weight times loss, steps the optimiser.

        Raises:
            InputError: no loss is active at this step.
            OutOfMemoryError: a resolution milestone needs more memory than there is.
        """
        assert self.scene is not None
        active = self.config.stages[self.stage].regularizers.active(step)
        self.scene.geometry.update(step)
        self.scene.material.update(self.steps_before + step, self.generator)  # it is one for all stages
        self.renderer.update(self.scene, step, self.generator)
        weighted: Weighted = {}
        figures: dict[str, float] = {}
        for name, guidance in self.guidance[self.stage].items():
            if step >= guidance.config.start:
                weighted |= self._guide(name, guidance, active, step)
                figures |= {f"{name}/{figure}": value for figure, value in guidance.figures().items()}
        for loss, value in regularizers.geometry_losses(active, self.scene.geometry, self.generator).items():
            weighted[loss] = active[loss], value
        if not weighted:
            raise InputError(f"stage {self.stage}, step {step}: no loss is active; every weight is 0 or starts later")
        total = torch.stack([weight * value for weight, value in weighted.values()]).sum()
        self.fabric.backward(total)
        self._average_gradients()
        self.optimizer.step(step)
        return {"loss": total.item()} | {name: value.item() for name, (_, value) in weighted.items()} | figures

    def _guide(self, name: str, guidance: Guidance, active: dict[str, float], step: int) -> Weighted:
        """Render what a guidance asks for; its losses and those of the regularisers on that render."""
        assert self.scene is not None
        cameras = guidance.cameras(step, self.generator)
        self._check_memory(name, cameras)
        passes = guidance.passes() | regularizers.passes(active)
        self.material.plain = guidance.compares_pictures
        render = self.renderer.render(self.scene, cameras, passes=passes, generator=self.generator)
        losses = {
            f"{name}/{loss}": (guidance.weight(loss, step), v) for loss, v in guidance.losses(render, step).items()
        }
        extra = regularizers.render_losses(active, render, self.scene, self.generator)
        return losses | {f"{name}/{loss}": (active[loss], value) for loss, value in extra.items()}

    def _check_memory(self, name: str, cameras: Cameras) -> None:
        """Before a resolution milestone: say that memory will not do while what was computed is still safe."""
        pixels = len(cameras) * cameras.height * cameras.width
        before = self.pixels.setdefault((self.stage, name), pixels)
        if pixels > before:
            self.pixels[self.stage, name] = pixels
            advice = f"lower system.stages.{self.stage}.guidance.{name}'s resolution or views_per_step"
            check_growth(pixels / before, self.device, advice)

    def _average_gradients(self) -> None:
        if self.fabric.world_size > 1:
            for parameter in self.optimizer.parameters:
                if parameter.grad is not None:
                    averaged = self.fabric.all_reduce(parameter.grad, reduce_op="mean")
                    assert isinstance(averaged, Tensor)
                    parameter.grad = averaged

    def state(self) -> dict[str, Any]:
        """See `System.state`: scene, renderer (occupancy), the stage's guidance, optimiser and both generators."""
        assert self.scene is not None
        return {
            "scene": self.scene.state_dict(),
            "renderer": self.renderer.state_dict(),
            "guidance": {name: guidance.state() for name, guidance in self.guidance[self.stage].items()},
            "optimizer": self.optimizer.adam.state_dict(),
            "generators": [self.setup_generator.get_state(), self.generator.get_state()],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        assert self.scene is not None
        self.renderer.load_state_dict(state["renderer"])
        for name, guidance in self.guidance[self.stage].items():
            guidance.load_state(state["guidance"][name])
        self.optimizer.adam.load_state_dict(state["optimizer"])
        self.setup_generator.set_state(state["generators"][0].cpu())
        self.generator.set_state(state["generators"][1].cpu())

    @torch.no_grad()
    def _render(self, cameras: Cameras, passes: Set[str]) -> Render:
        assert self.scene is not None
        return self.renderer.render(self.scene, cameras, passes=passes)

    def render(self, cameras: Cameras, passes: Set[str] = frozenset()) -> Render:
        """See `System.render`; images [B, H, W, C] on the CPU."""
        return self._render(cameras.to(self.device), passes).to("cpu")

    def surface(self) -> Surface:
        """See `System.surface`; the colour functions take and return tensors on the device of their points."""
        assert self.scene is not None
        scene = self.scene
        with torch.no_grad():
            mesh = scene.geometry.mesh().detach()
        _check_surface(mesh, scene.geometry)

        @torch.no_grad()
        def albedo(points: Tensor) -> Tensor:
            return scene.material.albedo(scene.geometry.features(points.to(self.device))).to(points.device)

        @torch.no_grad()
        def shaded(points: Tensor, normals: Tensor) -> Tensor:
            colors = albedo(points).to(self.device)
            return scene.material.shade(colors, normals.to(self.device), scene.light).rgb.to(points.device)

        return Surface(mesh, albedo, shaded)


def _check_surface(mesh: Mesh, geometry: Geometry) -> None:
    if not len(mesh.faces):
        raise InputError(f"no surface to export: {geometry.describe_level()}")
    if not torch.isfinite(mesh.vertices).all():
        raise InputError(f"the surface has vertices that are not finite: {geometry.describe_level()}")


def _check_stages(stages: dict[str, StageConfig]) -> None:
    if not stages:
        raise InputError("system.stages: wanted at least one stage")
    before = ""
    for name, stage in stages.items():
        where, source = f"system.stages.{name}", stage.geometry.options.from_
        if not stage.guidance:
            raise InputError(f"{where}.guidance: wanted at least one guidance")
        if source and source != before:
            wanted = f"'{before}', the stage before" if before else "nothing: this is the first stage"
            raise InputError(f"{where}.geometry.from: wanted {wanted}, got '{source}'")
        if source and find(stage.geometry.type, "geometry").initialize is Geometry.initialize:
            raise InputError(f"{where}.geometry.from: '{stage.geometry.type}' cannot start from another geometry")
        _check_renderer(stage, where)
        _check_regularizers(stage, where)
        before = name


def _check_renderer(stage: StageConfig, where: str) -> None:
    geometry = find(stage.geometry.type, "geometry")
    fitting = "volume" if geometry.is_volume() else "surface"
    if stage.renderer.type in ("volume", "surface") and stage.renderer.type != fitting:
        raise InputError(f"{where}.renderer: '{stage.geometry.type}' is a {fitting}; render it with '{fitting}'")
    if stage.renderer.type == "neus" and not geometry.is_signed_distance():
        what = f"'{stage.geometry.type}' has no signed distance everywhere"
        raise InputError(f"{where}.renderer: {what}; render it with '{fitting}'")


def _check_regularizers(stage: StageConfig, where: str) -> None:
    try:
        regularizers.check_regularizers(stage.regularizers, find(stage.geometry.type, "geometry"))
    except InputError as error:
        raise InputError(f"{where}.regularizers.{error}") from None
    moves_shape = getattr(stage.renderer.options, "normal_gradients", True)
    if not moves_shape and not stage.regularizers.lambda_orientation.is_zero():
        raise InputError(f"{where}.renderer.normal_gradients: wanted true, as lambda_orientation acts through it")


def _geometry_options(stages: dict[str, StageConfig], stage: str) -> Block:
    """A stage's geometry; one that starts `from` another has the appearance field of that one."""
    block = stages[stage].geometry
    if not block.options.from_:
        return block
    source = _geometry_options(stages, block.options.from_).options
    appearance = {key: getattr(source, key) for key in ("grid", "features") if hasattr(source, key)}
    return dataclasses.replace(block, options=dataclasses.replace(block.options, **appearance))
