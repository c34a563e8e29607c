"""`python -m bench.light`: albedo error with uniform light against fitted spherical Gaussians.

A bumpy ball of known colours is rendered from 16 sides under a strong, known light of spherical Gaussians. A texture is
then fitted to these images twice with the same losses: under uniform light, and under spherical Gaussians that start
from their defaults and are fitted as well.
"""

import argparse
import math
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
import trimesh
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table
from torch import Tensor

from liftstudio.backgrounds.solid_color import SolidColor
from liftstudio.core.config import parse
from liftstudio.data.cameras import orbit_cameras
from liftstudio.data.mesh import Mesh
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.geometry.base import Geometry
from liftstudio.lights.base import Light
from liftstudio.materials.diffuse import Diffuse
from liftstudio.ops.spherical_gaussians import irradiance
from liftstudio.renderers.scene import Scene
from liftstudio.renderers.surface import render_mesh
from liftstudio.systems.coarse_to_fine import CoarseToFine

VIEWS = 16
LIGHTS = ("uniform", "spherical-gaussians")
COLORS = torch.tensor([[0.80, 0.25, 0.20], [0.25, 0.65, 0.30], [0.20, 0.35, 0.75], [0.85, 0.75, 0.35]])  # sRGB


class TrueLight(Light):
    """A strong key light from a random side, a weak light from another side, and nearly uniform ambient light."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.axes = F.normalize(torch.randn(3, 3, generator=generator), dim=-1)
        self.sharpness = torch.tensor([10.0, 5.0, 0.1])
        self.amplitude = torch.tensor([4.0, 0.7, 0.2])

    def irradiance(self, normals: Tensor) -> Tensor:
        return irradiance(normals, self.axes, self.sharpness, self.amplitude)


class TrueObject(Geometry):
    """A bumpy ball with random patches of four colours."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.frequency = 14 * F.normalize(torch.randn(3, len(COLORS), generator=generator), dim=0)
        self.phase = 2 * math.pi * torch.rand(len(COLORS), generator=generator)

    def mesh(self) -> Mesh:
        """Return a closed mesh of radius about 0.7, with a wide variety of normals."""
        ball = trimesh.creation.icosphere(5)
        unit = torch.from_numpy(ball.vertices).float()
        x, y, z = (7 * unit).unbind(-1)
        radius = 0.7 + 0.05 * (torch.sin(x + 0.5) * torch.sin(y + 1) + torch.sin(z) * torch.sin(x - y))
        return Mesh(unit * radius[:, None], torch.from_numpy(ball.faces).long())

    def albedo(self, points: Tensor) -> Tensor:
        """Return sRGB [N, 3] at world points [N, 3]; the patches have soft borders."""
        return torch.softmax(12 * torch.sin(points @ self.frequency + self.phase), dim=-1) @ COLORS

    def features(self, points: Tensor) -> Tensor:
        return torch.logit(self.albedo(points))  # the diffuse material applies a sigmoid


def reference_views(scene: Scene, size: int) -> tuple[ReferenceViews, Render]:
    """Render 16 views of `size` x `size` pixels, from three elevations."""
    index = torch.arange(VIEWS)
    elevation = torch.tensor([-35.0, 10.0, 45.0, 10.0])[index % 4]
    cameras = orbit_cameras(index * 360.0 / VIEWS, elevation, 3.0, 35.0, size, size)
    with torch.no_grad():
        seen = render_mesh(scene.geometry.mesh(), scene, cameras)
    images = (seen.foreground / seen.opacity.clamp_min(1e-6)).clamp(0, 1)
    names = tuple(map(str, range(VIEWS)))
    return ReferenceViews(images, seen.opacity, cameras, names, torch.zeros(VIEWS, dtype=torch.bool)), seen


def fit(light: str, mesh_path: Path, views: ReferenceViews, steps: int) -> CoarseToFine:
    """Fit texture and light on the known mesh, and return the system."""
    grid = {"levels": 8, "log2_table_size": 14, "finest_resolution": 256}
    stage = {
        "steps": steps,
        "geometry": {"type": "mesh", "path": str(mesh_path), "grid": grid},
        "renderer": "surface",
        "guidance": {
            "views": {"type": "reconstruction", "views_per_step": 4, "lambda_mask": 0, "lambda_illumination": 0.1}
        },
        "regularizers": {"lambda_albedo_smoothness": 0.1},
        "optimizer": {"lr": 0.01, "groups": {"light": {"lr": 0.03}} if light != "uniform" else {}},
    }
    config = parse({"light": light, "stages": {"fit": stage}}, CoarseToFine.Config)
    fabric = Fabric(accelerator="cpu", devices=1)
    system = CoarseToFine(config, views=views, device=torch.device("cpu"), seed=0, fabric=fabric)
    system.enter("fit")
    for step in range(steps):
        system.step(step)
    return system


def scale_invariant_rmse(found: Tensor, wanted: Tensor) -> float:
    """Return the RMSE of colours [N, 3] after scaling `found` by the best common factor."""
    factor = (found * wanted).sum() / found.square().sum()
    return (factor * found - wanted).square().mean().sqrt().item()


def albedo_errors(seed: int, size: int = 80, steps: int = 300) -> dict[str, float]:
    """Return the scale-invariant albedo error over the visible surface points, by type of fitted light.

    seed: of the true light and colours. size: width and height of a view in pixels. steps: optimisation steps.
    """
    generator = torch.Generator().manual_seed(seed)
    truth = TrueObject(generator)
    scene = Scene(truth, Diffuse(Diffuse.Config()), TrueLight(generator), SolidColor(SolidColor.Config()))
    views, seen = reference_views(scene, size)
    assert seen.points is not None
    points = seen.points[seen.opacity[..., 0] > 0.99]
    mesh = truth.mesh()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mesh.ply"
        trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).export(path)
        systems = {light: fit(light, path, views, steps) for light in LIGHTS}
    wanted = truth.albedo(points)
    return {light: scale_invariant_rmse(system.surface().albedo(points), wanted) for light, system in systems.items()}


def main() -> None:
    """Print the errors under both lights for random true lights and colours."""
    parser = argparse.ArgumentParser(prog="python -m bench.light", description=__doc__)
    parser.add_argument("--scenes", type=int, default=3, help="number of random true lights and colours")
    table = Table("true scene", *LIGHTS, "ratio", "target", title="scale-invariant albedo error (RMSE, sRGB 0-1)")
    for seed in range(parser.parse_args().scenes):
        errors = albedo_errors(seed)
        uniform, fitted = (errors[light] for light in LIGHTS)
        table.add_row(str(seed), f"{uniform:.4f}", f"{fitted:.4f}", f"{fitted / uniform:.2f}", "<= 0.5")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
