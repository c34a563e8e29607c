"""The interface of all geometries."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from torch import Tensor, nn

from liftstudio.core.errors import InputError
from liftstudio.core.ranges import Range
from liftstudio.core.registry import Component
from liftstudio.data.mesh import Mesh

if TYPE_CHECKING:
    from liftstudio.data.cameras import Cameras
    from liftstudio.data.render import Render

Radius = Annotated[float, Range(1e-3)]
Features = Annotated[int, Range(3)]
NormalStep = Annotated[float, Range(1e-5)]

PRIOR = "prior"  # value of `from`: the volume of the prior that generated the views


class Geometry(Component, nn.Module):
    """A shape and the appearance features of its points, in world space.

    A volume geometry implements `field`, a surface geometry `mesh`; both implement `features`.
    """

    kind: ClassVar[str] = "geometry"
    key: str = "system.stages.NAME"  # of its stage in the config, for messages

    @dataclass
    class Config:
        from_: str = ""  # stage whose result initialises this geometry, or `prior`: its volume; empty: from scratch

        def following(self, source: "Geometry.Config") -> "Geometry.Config":
            """Return these options for a geometry that starts from one with the options `source`.

            Their appearance fields are the same.

            Raises:
                InputError: the geometry cannot start from such a one.
            """
            appearance = {key: getattr(source, key) for key in ("grid", "features") if hasattr(source, key)}
            return dataclasses.replace(self, **appearance)

    holds_shape: bool = False  # within `holding_shape`
    box: Tensor  # [2, 3] lowest and highest corner of the region that may hold the object, world units

    def update(self, step: int) -> None:
        """Apply the schedules of this geometry; called before each training step (0-based in the stage)."""

    @contextmanager
    def holding_shape(self, held: bool) -> Iterator[None]:
        """Return a context in which, if `held`, a surface geometry returns its mesh without gradients."""
        self.holds_shape = held
        try:
            yield
        finally:
            self.holds_shape = False

    def parameters_changed(self) -> None:
        """Drop what was kept of the parameters' values; called after each step of the optimiser."""

    @classmethod
    def is_volume(cls) -> bool:
        """Whether the geometry has a density to render; otherwise it has only a surface."""
        return cls.field is not Geometry.field

    def field(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [N, 1] (per world unit) and features [N, F] at world points [N, 3]."""
        raise InputError(f"{type(self).__name__} is a surface: render it with 'surface', not 'volume'")

    @classmethod
    def is_signed_distance(cls) -> bool:
        """Whether the geometry has a signed distance everywhere, as the renderer `neus` requires."""
        return cls.signed_distance is not Geometry.signed_distance

    def signed_distance(self, points: Tensor) -> Tensor:
        """Signed distance [N, 1] to the surface at world points [N, 3]; world units, negative inside."""
        raise InputError(f"{type(self).__name__} has no signed distance: render it with 'volume' or 'surface'")

    def sharpness(self) -> Tensor:
        """Sharpness s > 0 (scalar, per world unit) of the logistic function that maps signed distance to opacity."""
        raise InputError(f"{type(self).__name__} has no signed distance: render it with 'volume' or 'surface'")

    def normals(self, points: Tensor) -> Tensor:
        """Unit outward normals [N, 3] of the level sets at world points [N, 3]."""
        raise InputError(f"{type(self).__name__} has no normals away from its surface")

    def features(self, points: Tensor) -> Tensor:
        """Appearance features [N, F] at world points [N, 3]."""
        return self.field(points)[1]

    def features_seen(self, points: Tensor, viewers: Tensor) -> Tensor:
        """`features` of points seen from unit directions `viewers` [N, 3]; by default they do not depend on it."""
        return self.features(points)

    def mesh(self) -> Mesh:
        """The surface as a mesh; differentiable if the geometry is a surface geometry."""
        raise InputError(f"{type(self).__name__} is a volume: render it with 'volume', not 'surface'")

    def sdf_gradients(self, generator: torch.Generator) -> Tensor:
        """Gradients [N, 3] of the signed distance at points near the surface, drawn by `generator`; differentiable."""
        raise InputError(f"{type(self).__name__} has no signed distance: lambda_eikonal does not apply")

    def describe_level(self) -> str:
        """Text for the error on an empty surface: the range of the field, and what to change."""
        return "the surface is empty"

    @torch.no_grad()
    def initialize(self, other: "Geometry", cameras: "Cameras", seen: "Render", inside: Tensor | None = None) -> None:
        """Initialise the shape and the appearance field from another stage's geometry (coarse to fine).

        cameras, seen: cameras and the renders of `other` from them (`depth`, `opacity`, `points`), on this module's
        device. inside: what a prior says is inside the object, see `ReferenceViews`.
        """
        raise InputError(f"{type(self).__name__} cannot be initialised from another geometry")

    @torch.no_grad()
    def initialize_inside(self, inside: Tensor) -> None:
        """Initialise the shape from what a prior says is inside the object, [G, G, G], see `ReferenceViews.inside`.

        Something is inside.
        """
        raise InputError(f"{type(self).__name__} cannot start from the volume of a prior")
