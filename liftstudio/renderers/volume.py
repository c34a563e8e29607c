"""Volume rendering through an occupancy grid."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.ranges import NonNegativeInt, PositiveInt, Range
from liftstudio.core.registry import register
from liftstudio.data.cameras import Cameras
from liftstudio.data.render import Render
from liftstudio.materials.base import RandomShading, ShadingPoints
from liftstudio.ops.compositing import Composite, composite
from liftstudio.ops.marching import Samples, march
from liftstudio.ops.marching.occupancy import OccupancyGrid
from liftstudio.renderers.base import Renderer, SamplesAcross
from liftstudio.renderers.scene import Scene

MIN_WEIGHT = 1e-3  # compositing weight of a sample above which its normal is computed


@register("volume")
class VolumeRenderer(Renderer):
    """Marches rays through occupied cells and composites (NeRF); shades each pixel once, with the composited normal."""

    @dataclass
    class Config(Renderer.Config):
        samples_across: SamplesAcross = 128  # samples along the side of the object's box; sets the step size
        grid_resolution: Annotated[int, Range(1, 512)] = 64  # cells per side of the occupancy grid
        update_every: PositiveInt = 16  # steps between updates of the occupancy grid
        warm_up: NonNegativeInt = 128  # initial steps during which every cell is updated
        eval_rays: PositiveInt = 16384  # rays per chunk when rendering without gradients
        normal_gradients: bool = False  # whether losses on normals and shading affect the shape (second derivatives)

    def __init__(self, config: Config, *, box: Tensor) -> None:
        super().__init__()
        self.config = config
        self.step_size = float(box[1, 0] - box[0, 0]) / config.samples_across
        self.occupancy = OccupancyGrid(config.grid_resolution, self.step_size).to(box.device)

    @torch.no_grad()
    def update(self, scene: Scene, step: int, generator: torch.Generator) -> None:
        """Refresh the occupancy grid every `update_every` steps; during the warm-up, all of its cells."""
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
        shading: RandomShading | None = None,
    ) -> Render:
        """Render by marching rays, in chunks of `eval_rays` without gradients. `generator` jitters the samples."""
        origins, directions = cameras.rays()
        cosine = (directions * cameras.forward[:, None, None]).sum(-1, keepdim=True)
        rays = torch.cat([origins, directions, cosine], dim=-1)
        flat = rays.reshape(-1, 7)
        size = len(flat) if torch.is_grad_enabled() else self.config.eval_rays
        chunks = [self._render_rays(scene, chunk, passes, generator, shading) for chunk in flat.split(size)]
        images: dict[str, Any] = {
            name: torch.cat([chunk[name] for chunk in chunks]).reshape(*rays.shape[:3], -1) for name in chunks[0]
        }
        return Render(**images)

    def _render_rays(
        self,
        scene: Scene,
        rays: Tensor,
        passes: Set[str],
        generator: torch.Generator | None,
        shading: RandomShading | None,
    ) -> dict[str, Tensor]:
        """The images of `Render`, each [R, C], for rays [R, 7]: origin, unit direction, cosine to the optical axis."""
        origins, directions, cosine = rays.split([3, 3, 1], dim=-1)
        needs_normals = scene.light.needs_normals or scene.material.needs_normals or shading is not None
        wants_normals = needs_normals or not passes.isdisjoint({"normal", "orientation"})
        result, orientation = self._composite(scene, origins, directions, generator, shading, wants_normals, passes)
        albedo, opacity = result.values[:, :3], result.opacity
        normal = F.normalize(result.values[:, 3:6], dim=-1, eps=1e-6) if wants_normals else torch.zeros_like(albedo)
        distance = result.depth / opacity.clamp_min(1e-6)
        points = origins + distance * directions
        shaded = scene.material.shade(albedo, normal, scene.light, ShadingPoints(points, origins), shading)
        background = scene.background.color(directions)
        images = {
            "rgb": shaded.rgb + (1 - opacity) * background,
            "foreground": shaded.rgb,
            "opacity": opacity,
            "albedo": albedo,
            "irradiance": shaded.irradiance,
            "depth": distance * cosine,
            "points": points * (opacity > 0),
        }
        if "background" in passes:
            images["background"] = background
        if wants_normals:
            images["normal"] = normal
        if result.distortion is not None:
            images["distortion"] = result.distortion
        if orientation is not None:
            images["orientation"] = orientation
        return images

    def _composite(
        self,
        scene: Scene,
        origins: Tensor,
        directions: Tensor,
        generator: torch.Generator | None,
        shading: RandomShading | None,
        wants_normals: bool,
        passes: Set[str],
    ) -> tuple[Composite, Tensor | None]:
        """Composite albedo, and normals if wanted, along R rays: values [R, 3 or 6], and pass `orientation` [R, 1]."""
        jitter = None
        if generator is not None:
            jitter = torch.rand(len(origins), generator=generator, device=origins.device)
        samples, points, density, features = self._sample(scene, origins, directions, jitter)
        values = scene.material.albedo(features, shading)
        if wants_normals:
            values = torch.cat([values, self._normals(scene, points, density, samples)], dim=-1)
        result = composite(density, values, samples, distortion="distortion" in passes)
        if "orientation" not in passes:
            return result, None
        away = (values[:, 3:6] * directions[samples.ray_index]).sum(-1).clamp_min(0).square()
        seen = result.weights.detach() * away
        return result, seen.new_zeros(len(origins)).index_add(0, samples.ray_index, seen)[:, None]

    def _sample(
        self, scene: Scene, origins: Tensor, directions: Tensor, jitter: Tensor | None
    ) -> tuple[Samples, Tensor, Tensor, Tensor]:
        """S samples along R rays, shifted by `jitter` [R] steps; points [S, 3], densities [S] and features [S, F]."""
        occupied = self.occupancy.occupied
        samples = march(origins, directions, occupied, scene.geometry.box, self.step_size, jitter=jitter)
        points = origins[samples.ray_index] + samples.t_mid[:, None] * directions[samples.ray_index]
        density, features = scene.geometry.field(points)
        return samples, points, density[:, 0], features

    def _normals(self, scene: Scene, points: Tensor, density: Tensor, samples: Samples) -> Tensor:
        """Normals [S, 3]; without normal gradients, zero at samples of negligible weight, as normals are expensive."""
        if torch.is_grad_enabled() and self.config.normal_gradients:
            return scene.geometry.normals(points)
        with torch.no_grad():
            weights = composite(density.detach(), density.new_zeros(len(points), 0), samples).weights
            shown = (weights > MIN_WEIGHT).nonzero()[:, 0]
            return torch.zeros_like(points).index_copy(0, shown, scene.geometry.normals(points[shown]))
