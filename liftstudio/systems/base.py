"""The interface of all systems."""

from abc import abstractmethod
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.registry import Component
from liftstudio.core.schedules import Schedule
from liftstudio.data.cameras import Cameras
from liftstudio.data.mesh import Mesh
from liftstudio.data.render import Render
from liftstudio.lights.base import Light


@dataclass(frozen=True)
class Surface:
    """A finished object: its mesh and its colour functions.

    albedo: world points [N, 3] -> [N, 3] sRGB in [0, 1], light removed.
    shaded: world points [N, 3], unit normals [N, 3] -> [N, 3] sRGB in [0, 1] under the fitted light.
    """

    mesh: Mesh
    albedo: Callable[[Tensor], Tensor]
    shaded: Callable[[Tensor, Tensor], Tensor]


class System(Component):
    """Optimisation of a scene in named stages; the run owns the loop, the folder and the checkpoints."""

    kind: ClassVar[str] = "system"

    stages: dict[str, int]  # stage name -> its number of steps, in order
    light: Light | None = None  # what is fitted as the scene's light, if anything

    @classmethod
    def check(cls, config: Any, *, has_volume: bool) -> None:
        """Check what can be told from the options alone; called before the views are made.

        has_volume: whether the prior that makes the views says what is inside the object.

        Raises:
            InputError: options contradict each other; names the option.
        """

    @abstractmethod
    def enter(self, stage: str, state: dict[str, Any] | None = None) -> None:
        """Make `stage` the current one.

        state: what `state()` returned in this stage, to continue from; None: start from the previous stage.
        """

    @abstractmethod
    def step(self, step: int) -> dict[str, float]:
        """Do one optimisation step (0-based in the stage); return the total as `loss`, and every named loss."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return all that `enter` needs to continue exactly here: nested dicts and lists of tensors and numbers."""

    @abstractmethod
    def render(self, cameras: Cameras, passes: Set[str] = frozenset()) -> Render:
        """Render the current scene in chunks, without gradients and in eval mode; the result is on the CPU."""

    def cameras(self) -> dict[str, Cameras]:
        """Return the cameras of the last step, by the name of the guidance that asked for them; none by default."""
        return {}

    def schedules(self) -> dict[str, Schedule]:
        """Return the options of the current stage that `change` takes, by their dotted keys there; none by default."""
        return {}

    def change(self, option: str, schedule: Schedule, step: int) -> None:
        """Change one of `schedules` from a step of the current stage on.

        Raises:
            InputError: there is no such option, or the stage could not go on with this value.
        """
        raise InputError(f"{option}: the options of this system cannot be changed during a run")

    def relight(self, light: Light) -> None:
        """Replace the scene's light, for rendering.

        Raises:
            InputError: the system has no light to replace.
        """
        raise InputError("relight: this system has no light to replace")

    @abstractmethod
    def surface(self) -> Surface:
        """Return the current scene's surface for export.

        Raises:
            InputError: the surface is empty or not finite; contains the field's range and a level to try.
        """
