"""Volume rendering through an occupancy grid."""

from collections.abc import Set
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liftstudio.cameras import Cameras
from liftstudio.ops.compositing import composite
from liftstudio.ops.marching import march
from liftstudio.ops.marching.occupancy import OccupancyGrid
from liftstudio.registry import register
from liftstudio.renderers.base import Render, Renderer
from liftstudio.scene import Scene


@register("volume")
class VolumeRenderer(Renderer):
    """Marches rays through occupied cells and composites (NeRF); shades once per pixel with the composited normal."""

    @dataclass
    class Config(Renderer.Config):
        samples_across: int = 128  # samples along the side of the object's box; sets the step size
        grid_resolution: int = 64  # cells per side of the occupancy grid
        update_every: int = 16  # steps between updates of the occupancy grid
        warm_up: int = 128  # steps in which every cell is updated
        eval_rays: int = 16384  # rays per chunk when rendering without gradients
        normal_gradients: bool = False  # whether shading moves the shape through its normals (second derivatives)

    def __init__(self, config: Config, *, box: Tensor) -> None:
        super().__init__()
        self.config = config
        self.step_size = float(box[1, 0] - box[0, 0]) / config.samples_across
        self.occupancy = OccupancyGrid(config.grid_resolution, self.step_size).to(box.device)

    @torch.no_grad()
    def update(self, scene: Scene, step: int, generator: torch.Generator) -> None:
        if step % self.config.update_every == 0:
            self.occupancy.update(
                lambda points: scene.geometry.field(points)[0],
                generator,
                scene.geometry.box,
                warm_up=step < self.config.warm_up,
            )

    def render(
        self,
        scene: Scene,
        cameras: Cameras,
        *,
        passes: Set[str] = frozenset(),
        generator: torch.Generator | None = None,
    ) -> Render:
        origins, directions = cameras.rays()
        cosine = (directions * cameras.forward[:, None, None]).sum(-1, keepdim=True)
        rays = [tensor.reshape(-1, tensor.shape[-1]) for tensor in (origins, directions, cosine)]
        size = len(rays[0]) if torch.is_grad_enabled() else self.config.eval_rays
        chunks = [
            self._render_rays(scene, *(r[i : i + size] for r in rays), passes, generator)
            for i in range(0, len(rays[0]), size)
        ]
        shape = (*origins.shape[:3], -1)
        images = {name: torch.cat([chunk[name] for chunk in chunks]).reshape(shape) for name in chunks[0]}
        return Render(**images)

    def _render_rays(
        self,
        scene: Scene,
        origins: Tensor,
        directions: Tensor,
        cosine: Tensor,
        passes: Set[str],
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """All passes of R rays, each [R, C]; see `Render`."""
        box = scene.geometry.box
        jitter = None
        if generator is not None:
            jitter = torch.rand(len(origins), generator=generator, device=origins.device)
        samples = march(origins, directions, self.occupancy.occupied, box, self.step_size, jitter=jitter)
        middle = 0.5 * (samples.t_start + samples.t_end)[:, None]
        points = origins[samples.ray_index] + middle * directions[samples.ray_index]
        density, features = scene.geometry.field(points)
        values = [scene.material.albedo(features)]
        wants_normals = scene.light.needs_normals or "normal" in passes
        if wants_normals:
            values.append(self._normals(scene, points))
        result = composite(density[:, 0], torch.cat(values, dim=-1), samples, distortion="distortion" in passes)
        albedo, opacity = result.values[:, :3], result.opacity
        normal = F.normalize(result.values[:, 3:6], dim=-1, eps=1e-6) if wants_normals else torch.zeros_like(albedo)
        shading = scene.material.shade(albedo, normal, scene.light)
        distance = result.depth / opacity.clamp_min(1e-6)
        images = {
            "rgb": shading.rgb + (1 - opacity) * scene.background.color(directions),
            "foreground": shading.rgb,
            "opacity": opacity,
            "albedo": albedo,
            "irradiance": shading.irradiance,
            "depth": distance * cosine,
            "points": origins + distance * directions,
        }
        if wants_normals:
            images["normal"] = normal
        if result.distortion is not None:
            images["distortion"] = result.distortion
        return images

    def _normals(self, scene: Scene, points: Tensor) -> Tensor:
        if self.config.normal_gradients:
            return scene.geometry.normals(points)
        with torch.no_grad():
            return scene.geometry.normals(points)
