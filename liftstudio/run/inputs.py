"""Inputs of a run, stored in its folder so that the run does not depend on the user's data any more."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liftstudio.core.checkpoints import read_verified, write_verified
from liftstudio.core.config import ComponentSpec
from liftstudio.data.cameras import Cameras
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.views.base import ViewSource


@dataclass(frozen=True)
class Inputs:
    """The reference views of a run, and the true surface where it is known.

    views:           the reference views, or None.
    truth_mesh:      file of the true surface in the world of the data, or None.
    data_from_world: [4, 4] float64 similarity from the world of the views' cameras to that of the data.
    """

    views: ReferenceViews | None
    truth_mesh: Path | None
    data_from_world: Tensor

    @classmethod
    def load(cls, views: ComponentSpec | None, device: torch.device) -> "Inputs":
        """Return the inputs from the view source of the config; networks that generate views run on `device`.

        Raises:
            InputError: the data are missing, invalid or inconsistent, or the true surface is unreadable.
        """
        if views is None:
            return cls(None, None, torch.eye(4, dtype=torch.float64))
        source: ViewSource = views.build(device=device)
        with views.naming():
            truth = source.truth_mesh()
            if truth is not None:
                from liftstudio.data.mesh_io import read_mesh

                read_mesh(truth)
            return cls(source.load(), truth, source.data_from_world())

    def save(self, path: Path) -> None:
        """Write the inputs to a file; of the true surface only the path is stored."""
        views = None
        if self.views is not None:
            views = {**_fields(self.views), "cameras": _fields(self.views.cameras)}
        truth = None if self.truth_mesh is None else str(self.truth_mesh.resolve())
        write_verified(path, {"views": views, "truth_mesh": truth, "data_from_world": self.data_from_world})

    @classmethod
    def restore(cls, path: Path) -> "Inputs":
        """Return what `save` wrote.

        Raises:
            InputError: see `read_verified`.
        """
        data = read_verified(path)
        views, truth = data["views"], data["truth_mesh"]
        if views is not None:
            views = ReferenceViews(**{**views, "cameras": Cameras(**views["cameras"])})
        return cls(views, None if truth is None else Path(truth), data["data_from_world"])


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
