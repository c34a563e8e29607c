"""Losses that a stage adds to those of its guidance: on the renders, and on the geometry itself."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.schedules import OFF, Schedule
from liftstudio.data.render import Render
from liftstudio.geometry.base import Geometry
from liftstudio.guidance import losses
from liftstudio.materials.base import RandomShading
from liftstudio.renderers.scene import Scene

SURFACE_POINTS = 4096  # sampled on a mesh per step


@dataclass
class Regularizers:
    """Weights of the regularisers; each a number or a schedule over the stage's steps."""

    lambda_sparsity: Schedule = OFF  # mean opacity
    lambda_opaque: Schedule = OFF  # entropy of the opacity: pushes pixels to fully opaque or empty
    lambda_distortion: Schedule = OFF  # volumes: Mip-NeRF 360 distortion, gathers density on one surface
    lambda_orientation: Schedule = OFF  # volumes: normals that face away from the camera; needs normal_gradients
    lambda_albedo_smoothness: Schedule = OFF  # squared difference of albedo between close surface points
    lambda_normal_smoothness: Schedule = OFF  # volumes: squared difference of normals between close surface points
    lambda_eikonal: Schedule = OFF  # signed distance fields: deviation of the gradient's length from 1
    lambda_laplacian: Schedule = OFF  # meshes: squared distance of vertices from the mean of their neighbours
    lambda_normal_consistency: Schedule = OFF  # meshes: 1 - cosine between the normals of adjacent faces

    def active(self, step: int) -> dict[str, float]:
        """Return the weights that are not 0 at a step, by loss name."""
        weights = {f.name.removeprefix("lambda_"): getattr(self, f.name)(step) for f in fields(self)}
        return {name: weight for name, weight in weights.items() if weight != 0}


def check_regularizers(options: Regularizers, geometry: type[Geometry]) -> None:
    """Check that the losses in use apply to a type of geometry.

    Raises:
        InputError: one does not; names the option and what it needs.
    """
    needs = {
        "distortion": (geometry.is_volume(), "a volume"),
        "orientation": (geometry.is_volume(), "a volume"),
        "normal_smoothness": (geometry.is_volume(), "a volume"),
        "eikonal": (geometry.sdf_gradients is not Geometry.sdf_gradients, "a signed distance field"),
        "laplacian": (not geometry.is_volume(), "a surface"),
        "normal_consistency": (not geometry.is_volume(), "a surface"),
    }
    for name, (fits, wanted) in needs.items():
        if not fits and not getattr(options, f"lambda_{name}").is_zero():
            raise InputError(f"lambda_{name}: needs {wanted}; set it to 0 for this geometry")


def passes(active: dict[str, float]) -> frozenset[str]:
    """Return the optional render passes that the active regularisers need."""
    return frozenset({"distortion", "orientation"} & set(active))


def render_losses(
    active: dict[str, float],
    render: Render,
    scene: Scene,
    generator: torch.Generator,
    shading: RandomShading | None = None,
) -> dict[str, Tensor]:
    """Return the named losses of one render.

    shading: the random shading of the render, if any; where it replaces the albedo by white, the albedo is smooth.
    """
    functions = {
        "sparsity": lambda: losses.sparsity(render.opacity),
        "opaque": lambda: losses.opaque(render.opacity),
        "distortion": lambda: _distortion(render),
        "orientation": lambda: losses.orientation(render.require("orientation"), render.opacity),
        "albedo_smoothness": lambda: _albedo_smoothness(render, scene, generator, shading),
        "normal_smoothness": lambda: _normal_smoothness(render, scene, generator),
    }
    return {name: function() for name, function in functions.items() if name in active}


def geometry_losses(active: dict[str, float], geometry: Geometry, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the named losses of the geometry, which do not depend on a view."""
    functions = {
        "eikonal": lambda: losses.eikonal(geometry.sdf_gradients(generator)),
        "laplacian": lambda: losses.mesh_laplacian(geometry.mesh()),
        "normal_consistency": lambda: losses.mesh_normal_consistency(geometry.mesh()),
    }
    return {name: function() for name, function in functions.items() if name in active}


def _distortion(render: Render) -> Tensor:
    if render.distortion is None:
        raise InputError("lambda_distortion: needs the renderer 'volume'; this one has no samples along its rays")
    return losses.distortion(render.distortion)


def _albedo_smoothness(
    render: Render, scene: Scene, generator: torch.Generator, shading: RandomShading | None
) -> Tensor:
    """Return the loss between the albedo at surface points and at points close by (SV3D, sec. 4.3).

    On meshes the points are sampled on the whole surface, so that parts that no view shows take the colour around them.
    """
    points = _surface_points(render, scene, generator)
    features = scene.geometry.features(_with_neighbors(points, scene, generator))
    albedo = scene.material.albedo(features, shading)
    return losses.albedo_smoothness(*albedo.chunk(2))


def _normal_smoothness(render: Render, scene: Scene, generator: torch.Generator) -> Tensor:
    points = _surface_points(render, scene, generator)
    return losses.normal_smoothness(*scene.geometry.normals(_with_neighbors(points, scene, generator)).chunk(2))


def _surface_points(render: Render, scene: Scene, generator: torch.Generator) -> Tensor:
    """Return surface points [N, 3]: those that the render shows of a volume, or a sample of a mesh's whole surface."""
    if scene.geometry.is_volume():
        return render.require("points")[render.opacity[..., 0] > 0.5].detach()
    with torch.no_grad():
        return scene.geometry.mesh().sample(SURFACE_POINTS, generator)


def _with_neighbors(points: Tensor, scene: Scene, generator: torch.Generator) -> Tensor:
    """Return [2 N, 3]: the points, then the points with N(0, 0.01^2) offsets, in units of the scene's box."""
    size = float(scene.geometry.box[1, 0] - scene.geometry.box[0, 0])
    offsets = torch.randn(points.shape, generator=generator, device=points.device) * 0.01 * size
    return torch.cat([points, points + offsets])
