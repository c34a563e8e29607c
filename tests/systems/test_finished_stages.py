"""What a stage shows at its end is what its checkpoint shows, for every geometry."""

import copy
from pathlib import Path

import pytest
import torch
from helpers.tiny_scenes import orbit, sphere_views
from helpers.tiny_stages import GEOMETRIES, stage, write_ball
from lightning_fabric import Fabric

from liftstudio.core.config import parse
from liftstudio.systems.coarse_to_fine import CoarseToFine


def make(stages: dict[str, object]) -> CoarseToFine:
    return CoarseToFine(
        parse({"light": {"type": "spherical-gaussians", "lobes": 4}, "stages": stages}, CoarseToFine.Config),
        views=sphere_views(6, 16),
        device=torch.device("cpu"),
        seed=0,
        fabric=Fabric(accelerator="cpu", devices=1),
    )


def shown(system: CoarseToFine) -> list[bytes]:
    """Return all that test and export take from a system."""
    surface, render = system.surface(), system.render(orbit(5, 16), frozenset({"normal", "depth", "albedo"}))
    vertices = surface.mesh.vertices
    colors = surface.albedo(vertices), surface.shaded(vertices, surface.mesh.vertex_normals())
    tensors = [vertices, surface.mesh.faces, *colors, render.rgb, render.opacity, render.normal, render.depth]
    return [tensor.numpy().tobytes() for tensor in tensors if tensor is not None]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_end_of_training_is_what_the_checkpoint_holds(
    geometry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_ball(tmp_path)
    straight, resumed = (make({"only": stage(geometry, 9)}) for _ in range(2))
    straight.enter("only")
    for step in range(9):
        straight.step(step)
    resumed.enter("only", copy.deepcopy(straight.state()))
    assert shown(straight) == shown(resumed) == shown(straight)


def test_a_stage_starts_from_the_last_step_of_the_one_before() -> None:
    fine = stage("dmtet", 2)
    fine["geometry"] = {**fine["geometry"], "from": "coarse"}
    straight, resumed = (make({"coarse": stage("dmtet", 4), "fine": fine}) for _ in range(2))
    straight.enter("coarse")
    for step in range(4):
        straight.step(step)
    resumed.enter("coarse", copy.deepcopy(straight.state()))
    for system in (straight, resumed):
        system.enter("fine")
    assert shown(straight) == shown(resumed)
