"""NeuS as a stage: it recovers a known shape, resumes exactly, and DMTet starts from it."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
import yaml
from helpers.paths import ROOT
from helpers.tiny_project import write_capture
from helpers.tiny_scenes import Solid, from_trimesh, is_closed, orbit, scene_of, sphere_views, volume_of
from lightning_fabric import Fabric
from test_coarse_to_fine import assert_same_state, run

from liftstudio.cli.command_line import main as launch
from liftstudio.core.config import parse
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.export.options import ExportConfig
from liftstudio.export.pipeline import export_mesh
from liftstudio.renderers.surface import render_mesh
from liftstudio.systems.coarse_to_fine import CoarseToFine

TINY = "levels: 4, log2_table_size: 11, base_resolution: 4, finest_resolution: 16, hidden: 16"
CONFIG = f"""
stages:
  coarse:
    steps: 150
    geometry:
      type: neus
      grid: {{{TINY}}}
      distance_grid: {{{TINY}}}
      network: {{layers: 3, hidden: 48, skip: 2, frequencies: 3}}
      color_network: {{layers: 2, hidden: 16, frequencies: 2}}
      levels_used: [0, 2, 4, 40]
      surface_resolution: 32
    renderer: {{type: neus, samples_across: 32, grid_resolution: 16, cosine_annealing: [0, 0, 1, 30]}}
    guidance:
      views: {{type: reconstruction, views_per_step: 3}}
    optimizer: {{lr: [0, 0.02, 0.002, 150]}}
    regularizers: {{lambda_eikonal: 0.1, lambda_normal_smoothness: 0.01}}
  fine:
    steps: 10
    geometry: {{type: dmtet, from: coarse, resolution: 16}}
    renderer: surface
    guidance:
      views: {{type: reconstruction, views_per_step: 3}}
"""


def box_views(count: int, size: int) -> ReferenceViews:
    """Return images of a grey box."""
    cameras, mesh = orbit(count, size, [-35.0, 0.0, 35.0]), from_trimesh(trimesh.creation.box((0.9, 0.7, 1.1)))
    seen = render_mesh(mesh, scene_of(Solid(mesh=mesh)), cameras)
    names, nothing_held_out = tuple(map(str, range(count))), torch.zeros(count, dtype=torch.bool)
    return ReferenceViews(
        torch.full_like(seen.rgb, 0.5), (seen.opacity > 0.5).float(), cameras, names, nothing_held_out
    )


def make(views: ReferenceViews, **geometry: Any) -> CoarseToFine:
    data = yaml.safe_load(CONFIG)
    data["stages"]["coarse"]["geometry"].update(geometry)
    return build(data, views)


def build(data: dict[str, Any], views: ReferenceViews) -> CoarseToFine:
    fabric = Fabric(accelerator="cpu", devices=1)
    return CoarseToFine(
        parse(data, CoarseToFine.Config), views=views, device=torch.device("cpu"), seed=0, fabric=fabric
    )


def test_it_finds_a_sphere_and_dmtet_goes_on_from_it() -> None:
    system = make(sphere_views(6, 24, radius=0.7))  # it starts at 0.5
    system.enter("coarse")
    losses = run(system, 0, 100)
    assert {"loss", "views/rgb", "views/mask", "views/normal_smoothness", "eikonal"} == set(losses[0])
    mesh = system.surface().mesh
    assert is_closed(mesh)
    assert mesh.vertices.norm(dim=-1).mean().item() == pytest.approx(0.7, abs=0.03)  # half a pixel is 0.04
    assert system.stage.scene.geometry.sharpness() > 30  # from 20: the surface became sharper
    before = system.stage.scene.geometry.hash_field.state_dict()
    system.enter("fine")
    assert all(torch.equal(t, system.stage.scene.geometry.hash_field.state_dict()[n]) for n, t in before.items())
    run(system, 0, 10)
    assert system.surface().mesh.vertices.norm(dim=-1).mean().item() == pytest.approx(0.7, abs=0.03)


def test_it_finds_a_box() -> None:
    system = make(box_views(12, 24))
    system.enter("coarse")
    run(system, 0, 100)
    mesh = system.surface().mesh
    assert is_closed(mesh) and volume_of(mesh) == pytest.approx(0.9 * 0.7 * 1.1, rel=0.15)
    beyond = mesh.vertices.abs() - torch.tensor([0.9, 0.7, 1.1]) / 2
    distance = beyond.clamp_min(0).norm(dim=-1) + beyond.amax(-1).clamp_max(0)
    assert distance.abs().mean() < 0.03  # a pixel is 0.09, a cell of the grid 0.13


def test_a_network_finds_a_sphere_and_is_exported_as_the_last_stage(tmp_path: Path) -> None:
    data = yaml.safe_load(CONFIG)
    coarse = data["stages"].pop("coarse")
    coarse["geometry"]["distance"] = "network"
    coarse["renderer"]["samples_across"] = 24
    coarse["optimizer"] = {"lr": 0.02, "groups": {"geometry.distance": {"lr": 0.005}}}
    system = build({"stages": {"only": coarse}}, sphere_views(6, 16))
    system.enter("only")
    lengths = system.surface().mesh.vertices.norm(dim=-1)
    assert lengths.mean() > 0.6 and lengths.std() > 0.05  # such a narrow network starts as a poor sphere
    run(system, 0, 60)
    surface = system.surface()
    lengths = surface.mesh.vertices.norm(dim=-1)
    assert is_closed(surface.mesh) and lengths.mean().item() == pytest.approx(0.5, abs=0.03)  # half a pixel is 0.06
    assert lengths.std() < 0.025
    config = ExportConfig(formats=["glb"], texture_size=128, target_faces=500)
    export_mesh(surface.mesh, surface.albedo, tmp_path, config)
    exported = trimesh.load(tmp_path / "mesh.glb", force="mesh")
    x, y, z = exported.vertices.T  # y is up
    normals = np.stack([x, -z, y], axis=1) / np.linalg.norm(exported.vertices, axis=1)[:, None]
    colors = exported.visual.to_color().vertex_colors[:, :3] / 255
    assert np.abs(colors - (0.5 + 0.4 * normals)).mean() < 0.05  # 0.2 if they were all the same


@pytest.mark.parametrize(
    "options",
    [{}, {"distance": "network"}, {"distance": "network", "colors": "network"}],
    ids=["hash-grid", "network", "colors"],
)
def test_it_resumes_exactly(options: dict[str, str]) -> None:
    views = sphere_views(4, 12)
    straight = make(views, **options)
    straight.enter("coarse")
    run(straight, 0, 18)  # past the second occupancy update, during annealing
    saved = copy.deepcopy(straight.state())
    rest = run(straight, 18, 20)
    resumed = make(views, **options)
    resumed.enter("coarse", saved)
    assert run(resumed, 18, 20) == rest
    assert_same_state(straight.state(), resumed.state())


def test_the_volume_renderer_shows_it_too() -> None:
    data = yaml.safe_load(CONFIG)
    data["stages"]["coarse"]["renderer"] = {"type": "volume", "samples_across": 48, "grid_resolution": 16}
    system = build(data, sphere_views(4, 12))
    system.enter("coarse")
    losses = run(system, 0, 30)
    assert losses[-1]["views/mask"] < 0.7 * losses[0]["views/mask"]


def test_posed_photographs_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_capture(tmp_path / "capture", views=6, size=32)
    monkeypatch.chdir(tmp_path)
    options = [
        "data.path=capture",
        "views.held_out=[]",
        "tag=tiny",
        "device=cpu",
        "system.stages.coarse.steps=10",
        "system.stages.coarse.guidance.views.views_per_step=1",
        "system.stages.coarse.renderer.grid_resolution=16",
        "system.stages.coarse.renderer.samples_across=48",
        "system.stages.fine.steps=3",
        "system.stages.fine.geometry.resolution=16",
        "test.frames=1",
        "test.size=16",
        "test.stills=1",
        "log.tensorboard=false",
        "export.texture_size=64",
    ]
    assert launch(["--config", str(ROOT / "configs" / "reconstruct-neus.yaml"), "--train", *options]) == 0
    assert (tmp_path / "runs" / "reconstruct-neus" / "tiny" / "export" / "mesh.glb").stat().st_size > 1000
