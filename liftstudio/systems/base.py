"""What a run asks of a system."""

from abc import abstractmethod
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from liftstudio.core.registry import Component
from liftstudio.data.cameras import Cameras
from liftstudio.data.mesh import Mesh
from liftstudio.data.render import Render


@dataclass(frozen=True)
class Surface:
    """A finished object: its mesh and what colours it.

    albedo: world points [N, 3] -> [N, 3] sRGB in [0, 1], light removed.
    shaded: world points [N, 3], unit normals [N, 3] -> [N, 3] sRGB in [0, 1] under the fitted light.
    """

    mesh: Mesh
    albedo: Callable[[Tensor], Tensor]
    shaded: Callable[[Tensor, Tensor], Tensor]


class System(Component):
    """Optimises a scene through named stages. The run owns the loop, the folder and the checkpoints."""

    kind: ClassVar[str] = "system"

    stages: dict[str, int]  # stage name -> its number of steps, in order

    @abstractmethod
    def enter(self, stage: str, state: dict[str, Any] | None = None) -> None:
        """Make `stage` the current one: from `state` (a `state()` saved in it), else from the stage before."""

    @abstractmethod
    def step(self, step: int) -> dict[str, float]:
        """One optimisation step (0-based in the stage); returns the total `loss` and every named loss."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that `enter` needs to go on exactly here: nested dicts and lists of tensors and numbers."""

    @abstractmethod
    def render(self, cameras: Cameras, passes: Set[str] = frozenset()) -> Render:
        """The current scene without gradients, in eval mode, in chunks, on the CPU."""

    @abstractmethod
    def surface(self) -> Surface:
        """The current scene's surface for export.

        Raises:
            InputError: the surface is empty or explodes: states the field's range and proposes a level.
        """
