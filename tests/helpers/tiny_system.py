"""A system small enough to run, kill and resume many times in a test: it fits the radius and colour of a sphere.

Like every extension it only registers a component; tests copy this file into a `custom/` folder or import it.
"""

import random
import time
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import trimesh
from torch import Tensor

from liftstudio.core.ranges import PositiveInt
from liftstudio.core.registry import register
from liftstudio.data.cameras import Cameras
from liftstudio.data.mesh import Mesh
from liftstudio.data.render import Render
from liftstudio.systems.base import Surface, System


@register("tiny-sphere")
class TinySphere(System):
    """Fits the radius and colour of a sphere to the views' mean colour, with noise from every random source."""

    @dataclass
    class Config:
        steps: PositiveInt = 6  # optimisation steps of each of the two stages
        lr: float = 0.05  # learning rate
        seconds: float = 0.0  # pause in every step
        waits_at: int = -1  # steps of stage `first` after which it waits for a file `go`; -1: none
        ballast: int = 0  # unused elements in the state, to slow down checkpoint writing
        nan_at: int = -1  # step of stage `first` whose loss is not a number; -1: none
        memory_at: int = -1  # step of stage `first` at which memory runs out; -1: none
        batch_size: int = 8  # unused; named in the advice when memory runs out

    def __init__(self, config: Config, *, views: Any, device: torch.device, seed: int, fabric: Any) -> None:
        self.config, self.fabric = config, fabric
        self.stages = {"first": config.steps, "second": config.steps}
        self.generator = torch.Generator().manual_seed(seed)
        self.target = (views.images * views.masks).sum((0, 1, 2)) / views.masks.sum()

    def enter(self, stage: str, state: dict[str, Any] | None = None) -> None:
        self.stage = stage
        if stage == "first" or state is not None:
            self.parameters = torch.cat([torch.rand(3), torch.tensor([0.5])]).requires_grad_()
        self.optimizer = torch.optim.Adam([self.parameters], lr=self.config.lr)
        if state is not None:
            self.parameters.data.copy_(state["parameters"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.generator.set_state(state["generator"])

    def step(self, step: int) -> dict[str, float]:
        time.sleep(self.config.seconds)
        while self.stage == "first" and step == self.config.waits_at and not Path("go").exists():
            time.sleep(0.01)
        if self.stage == "first" and step == self.config.memory_at:
            raise MemoryError
        noise = torch.randn(4, generator=self.generator) + torch.randn(4) + random.random()
        color = (self.parameters[:3] - self.target).square().sum()
        total = color + (self.parameters[3] - 0.8).square() + 0.01 * (noise * self.parameters).sum()
        self.optimizer.zero_grad()
        self.fabric.backward(total)
        self.optimizer.step()
        broken = self.stage == "first" and step == self.config.nan_at
        return {"loss": total.item(), "color": float("nan") if broken else color.item()}

    def state(self) -> dict[str, Any]:
        return {
            "parameters": self.parameters.detach(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "ballast": torch.zeros(self.config.ballast),
        }

    def render(self, cameras: Cameras, passes: Set[str] = frozenset()) -> Render:
        origins, directions = cameras.rays()
        closest = -(origins * directions).sum(-1, keepdim=True)
        inside = float(self.parameters[3]) ** 2 - (origins.square().sum(-1, keepdim=True) - closest.square())
        opacity = (inside > 0).float()
        points = (origins + (closest - inside.clamp_min(0).sqrt()) * directions) * opacity
        color = self.parameters[:3].detach().clamp(0, 1).expand_as(points) * opacity
        depth = ((points - origins) * cameras.forward[:, None, None]).sum(-1, keepdim=True) * opacity
        normal = torch.nn.functional.normalize(points, dim=-1)
        return Render(color + 1 - opacity, color, opacity, albedo=color, normal=normal, depth=depth)

    def surface(self) -> Surface:
        sphere = trimesh.creation.icosphere(1)
        vertices = torch.from_numpy(sphere.vertices).float() * self.parameters[3].detach()
        mesh = Mesh(vertices, torch.from_numpy(sphere.faces).long())

        def albedo(points: Tensor) -> Tensor:
            return self.parameters[:3].detach().clamp(0, 1).expand(len(points), 3)

        return Surface(mesh, albedo, lambda points, normals: albedo(points))
