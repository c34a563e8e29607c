"""What a run leaves, read back from its folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import trimesh
from PIL import Image

from liftstudio.core.arguments import checked
from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras
from liftstudio.data.color_spaces import srgb_from_linear
from liftstudio.data.images import to_pillow
from liftstudio.data.mesh_io import SUFFIXES
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.export.options import Format
from liftstudio.run.folder import RunFolder, existing_run_folder
from liftstudio.run.inputs import Inputs

TO_Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # from z up


def load_y_up(path: Path, metrics: Mapping[str, Any]) -> trimesh.Trimesh:
    """Return the mesh of an exported file with y up, and with colours of its vertices, if it has them, in sRGB.

    metrics: of its run, which say which axis is up in the file.
    """
    mesh = trimesh.load(path, force="mesh", process=False)
    if path.suffix == ".glb" and mesh.visual.kind == "vertex":  # glTF stores them as linear light
        colors = mesh.visual.vertex_colors.copy()
        colors[:, :3] = (srgb_from_linear(colors[:, :3] / 255.0) * 255).round()
        mesh.visual.vertex_colors = colors
    export = metrics.get("export")
    axes = export.get("up_axis") if isinstance(export, dict) else None
    if isinstance(axes, dict) and axes.get(path.suffix[1:]) == "z":
        mesh.apply_transform(TO_Y_UP)
    return mesh


@dataclass(frozen=True)
class Result:
    """A run folder and what is in it; everything is read when it is first asked for."""

    run: RunFolder

    @classmethod
    @checked
    def of(cls, folder: str | Path) -> "Result":
        """Return the result in a run folder.

        Raises:
            InputError: it is no run folder.
        """
        return cls(existing_run_folder(Path(folder)))

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run.path

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What the run measured, as in metrics.json; empty if nothing yet."""
        return json.loads(self.run.metrics.read_text()) if self.run.metrics.is_file() else {}

    @property
    def files(self) -> dict[str, Path]:
        """The exported mesh files by format: glb, obj, ply, ...; empty before the export."""
        paths = {name: self.run.export / f"mesh.{name}" for name in get_args(Format)}
        return {name: path for name, path in paths.items() if path.is_file()}

    @property
    def mesh_file(self) -> Path | None:
        """The exported mesh in a format that can be read back, or, before an export, the preview; None: neither."""
        exported = self.files.values()
        readable = [path for path in exported or (self.run.preview,) if path.suffix in SUFFIXES and path.is_file()]
        return next(iter(readable), None)

    @cached_property
    def mesh(self) -> trimesh.Trimesh:
        """The exported mesh with its texture, or the preview where nothing was exported; y up.

        Raises:
            InputError: the run has neither, or only formats that cannot be read back.
        """
        if self.mesh_file is None and self.files:
            raise InputError(f"{self.folder}: {', '.join(self.files)} cannot be read back; export.formats=[glb] can")
        if self.mesh_file is None:
            raise InputError(f"{self.folder}: the run has no mesh yet; continue it with --resume")
        return load_y_up(self.mesh_file, self.metrics)

    @cached_property
    def reference(self) -> ReferenceViews | None:
        """The views that the run is fitted to, with masks and cameras; None: it has none, or did not keep them."""
        return Inputs.restore(self.run.inputs).views if self.run.inputs.is_file() else None

    @property
    def views(self) -> list[Image.Image]:
        """The reference views as RGBA images; empty where there are none."""
        if self.reference is None:
            return []
        return [to_pillow(view) for view in torch.cat([self.reference.images, self.reference.masks], dim=-1)]

    @property
    def cameras(self) -> Cameras | None:
        """The cameras of the reference views; None where there are none."""
        return None if self.reference is None else self.reference.cameras
