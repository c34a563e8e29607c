"""The stage that is currently optimised."""

import copy
from collections.abc import Set
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.memory import check_growth, is_out_of_memory
from liftstudio.data.cameras import Cameras
from liftstudio.data.mesh import Mesh
from liftstudio.data.render import Render
from liftstudio.geometry.base import Geometry
from liftstudio.guidance.base import Guidance
from liftstudio.materials.base import RandomShading
from liftstudio.renderers.base import Renderer
from liftstudio.renderers.scene import Scene
from liftstudio.systems import regularizers
from liftstudio.systems.adjustable import Adjustable
from liftstudio.systems.base import Surface
from liftstudio.systems.optimization import ScheduledAdam
from liftstudio.systems.stage_config import StageConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Weighted = dict[str, tuple[float, Tensor]]  # loss name in the logs -> weight, value


class Stage:
    """A scene with its renderer, guidance and optimiser."""

    def __init__(
        self,
        name: str,
        config: StageConfig,
        *,
        scene: Scene,
        guidance: dict[str, Guidance[Any]],
        steps_before: int,
        fabric: "Fabric",
    ) -> None:
        """Build the renderer and the optimiser of a scene, whose bounding box must not change any more.

        Args:
            name: name of the stage in the config.
            config: options of the stage.
            scene: the scene that is optimised.
            guidance: name in the logs -> guidance.
            steps_before: number of steps of all previous stages.
            fabric: Fabric of the processes that share the work.
        """
        self.name, self.config, self.scene, self.guidance = name, config, scene, guidance
        self.steps_before, self.fabric = steps_before, fabric
        self.device = scene.geometry.box.device
        self.renderer: Renderer = config.renderer.build(box=scene.geometry.box)
        self.optimizer = ScheduledAdam(config.optimizer, scene)
        self.adjustable = Adjustable(config, self.optimizer)
        self.cameras: dict[str, Cameras] = {}  # guidance -> what it asked for in the last step
        self.pixels: dict[str, int] = {}  # guidance -> most pixels rendered at once so far

    def step(self, step: int, generator: torch.Generator) -> dict[str, float]:
        """Do one step as in `System.step`: render for each active guidance, sum the weighted losses, update.

        If memory runs out, everything is as before the step, so that it can be saved.

        Raises:
            InputError: no loss is active at this step.
            OutOfMemoryError: a resolution milestone needs more memory than there is.
        """
        before = generator.get_state(), copy.deepcopy(self._kept())
        try:
            return self._step(step, generator)
        except Exception as error:
            if is_out_of_memory(error):
                generator.set_state(before[0])
                self._restore(before[1])
            raise

    def _kept(self) -> dict[str, Any]:
        """Return what a step changes besides the optimised parameters, which it changes last."""
        guidance = {name: guidance.state() for name, guidance in self.guidance.items()}
        return {"renderer": self.renderer.state_dict(), "guidance": guidance}

    def _restore(self, kept: dict[str, Any]) -> None:
        self.renderer.load_state_dict(kept["renderer"])
        for name, guidance in self.guidance.items():
            guidance.load_state(kept["guidance"][name])
        self.optimizer.adam.zero_grad(set_to_none=True)
        self.scene.geometry.parameters_changed()

    def _step(self, step: int, generator: torch.Generator) -> dict[str, float]:
        scene, active = self.scene, self.config.regularizers.active(step)
        scene.geometry.update(step)
        shading = scene.material.draw_shading(self.steps_before + step, generator)
        self.renderer.update(scene, step, generator)
        weighted: Weighted = {}
        metrics: dict[str, float] = {}
        moves_shape: list[bool] = []
        self.cameras = {}
        for name, guidance in self.guidance.items():
            if step >= guidance.config.start:
                losses, moves = self._guide(name, active, step, generator, shading)
                weighted |= losses
                moves_shape.append(moves)
                metrics |= {f"{name}/{metric}": value for metric, value in guidance.metrics().items()}
        # A step whose views all leave the shape as it is leaves it to no regulariser either.
        with scene.geometry.holding_shape(bool(moves_shape) and not any(moves_shape)):
            for loss, value in regularizers.geometry_losses(active, scene.geometry, generator).items():
                weighted[loss] = active[loss], value
        if not weighted:
            raise InputError(f"stage {self.name}, step {step}: no loss is active; every weight is 0 or starts later")
        total = torch.stack([weight * value for weight, value in weighted.values()]).sum()
        self.fabric.backward(total)
        self._average_gradients()
        self.optimizer.step(step)
        scene.geometry.parameters_changed()
        return {"loss": total.item()} | {name: value.item() for name, (_, value) in weighted.items()} | metrics

    def _guide(
        self,
        name: str,
        active: dict[str, float],
        step: int,
        generator: torch.Generator,
        shading: RandomShading | None,
    ) -> tuple[Weighted, bool]:
        """Render the request of a guidance.

        Returns its losses and those of the regularisers on that render; and whether they may change the shape.
        """
        guidance = self.guidance[name]
        if guidance.compares_pictures:
            shading = None
        request = guidance.request(step, generator)
        self.cameras[name] = request.cameras
        self._check_memory(name, request.cameras)
        passes = request.passes | regularizers.passes(active)
        scene, cameras = self.scene, request.cameras
        with scene.geometry.holding_shape(not request.moves_shape):
            render = self.renderer.render(scene, cameras, passes=passes, generator=generator, shading=shading)
        losses = guidance.losses(request, render)
        try:
            extra = regularizers.render_losses(active, render, self.scene, generator, shading)
        except InputError as error:  # names the weight of a loss
            raise InputError(f"system.stages.{self.name}.regularizers.{error}") from None
        weighted = {f"{name}/{loss}": (guidance.weight(loss, step), value) for loss, value in losses.items()}
        weighted |= {f"{name}/{loss}": (active[loss], value) for loss, value in extra.items()}
        return weighted, request.moves_shape

    def _check_memory(self, name: str, cameras: Cameras) -> None:
        """At a resolution milestone on the CPU, stop before memory runs out; elsewhere a step that fails is undone."""
        pixels = len(cameras) * cameras.height * cameras.width
        before = self.pixels.setdefault(name, pixels)
        if pixels > before and self.device.type == "cpu":
            self.pixels[name] = pixels
            key = f"system.stages.{self.name}.guidance.{name}"
            advice = f"lower {key}.resolution or {key}.views_per_step"
            check_growth(pixels / before, advice)

    def _average_gradients(self) -> None:
        if self.fabric.world_size > 1:
            for parameter in self.optimizer.parameters:
                if parameter.grad is not None:
                    averaged = self.fabric.all_reduce(parameter.grad, reduce_op="mean")
                    assert isinstance(averaged, Tensor)
                    parameter.grad = averaged

    def state(self) -> dict[str, Any]:
        """Return the state of scene, renderer (occupancy), guidance and optimiser, for the checkpoint."""
        return {
            "scene": self.scene.state_dict(),
            **self._kept(),
            "optimizer": self.optimizer.adam.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned, except the scene, which is loaded before, since the renderer needs its box."""
        self._restore(state)
        self.optimizer.adam.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def render(self, cameras: Cameras, passes: Set[str] = frozenset()) -> Render:
        """Render the scene in chunks, without gradients; the result is on the scene's device."""
        return self.renderer.render(self.scene, cameras, passes=passes)

    def surface(self) -> Surface:
        """See `System.surface`; the colour functions accept points on any device and return colours on the same."""
        scene, device = self.scene, self.device
        with torch.no_grad():
            mesh = scene.geometry.mesh().detach()
        _check_surface(mesh, scene.geometry)

        @torch.no_grad()
        def albedo(points: Tensor) -> Tensor:
            return scene.material.albedo(scene.geometry.features(points.to(device))).to(points.device)

        @torch.no_grad()
        def shaded(points: Tensor, normals: Tensor) -> Tensor:
            colors = albedo(points).to(device)
            return scene.material.shade(colors, normals.to(device), scene.light).rgb.to(points.device)

        return Surface(mesh, albedo, shaded)


def _check_surface(mesh: Mesh, geometry: Geometry) -> None:
    if not len(mesh.faces):
        raise InputError(f"no surface to export: {geometry.describe_level()}")
    if not torch.isfinite(mesh.vertices).all():
        raise InputError(f"the surface has vertices that are not finite: {geometry.describe_level()}")
