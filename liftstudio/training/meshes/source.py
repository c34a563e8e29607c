"""Training samples of real meshes, mixed with procedural objects."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from liftstudio.core.assets import input_path
from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.data.cameras import concatenate, turned
from liftstudio.synthetic.draws import Draws
from liftstudio.training.data import DataConfig, ProceduralObjects, Sample, SampleSource
from liftstudio.training.meshes.augmentation import augmented
from liftstudio.training.meshes.catalog import CATALOG, chosen, read_catalog
from liftstudio.training.meshes.files import SUFFIXES, find_files, read_files
from liftstudio.training.meshes.packs import Pack, StoredMesh, read_pack
from liftstudio.training.meshes.posing import MeshObject, pose
from liftstudio.training.meshes.rendering import EVEN, Lighting, draw_lighting, render
from liftstudio.training.meshes.solids import Solids
from liftstudio.training.meshes.split import group_alike, held_out, place, shape_profile
from liftstudio.training.meshes.variation import varied
from liftstudio.training.rigs import Rig, RigConfig, draw_rig, fitted, measured_count

BORDER = 0.02  # share of the input image kept empty on every side of the object


class MeshObjects(SampleSource):
    """Real meshes from a folder; the remaining share of samples is procedural."""

    def __init__(self, config: DataConfig) -> None:
        """Read all meshes into memory.

        Raises:
            InputError: there are no meshes, one is faulty or has no licence, or all weights are 0.
        """
        self.config = config
        self.procedural = ProceduralObjects(config)
        self.solids = Solids()
        meshes = [(pack, i) for pack in read_folder(input_path(config.objects), config) for i in range(len(pack))]
        names = [f"{pack.name}/{pack.ids[i]}" for pack, i in meshes]
        groups = group_alike(np.stack([shape_profile(pack.mesh(i)) for pack, i in meshes]))
        measured = held_out(names, groups)
        self.trained = [mesh for mesh, is_measured in zip(meshes, measured, strict=True) if not is_measured]
        order = sorted(range(len(meshes)), key=lambda n: place(names[n]))
        self.measured = [meshes[n] for n in order if measured[n]] or meshes
        weights = [config.weights.get(pack.name, 1.0) for pack, _ in self.trained]
        if not any(weights):
            raise InputError("data.weights: 0 for every mesh")
        self.until = torch.tensor(weights, dtype=torch.float64).cumsum(0)
        counts = len(self.trained), sum(measured), len(set(groups.tolist()))
        log.info("objects: %d meshes for training and %d held out, of %d shapes", *counts)

    def training(self, number: int, views: int, generator: torch.Generator) -> Sample:
        """See `SampleSource.training`."""
        if torch.rand((), generator=generator) < self.config.objects_share:
            sample = self._draw(views, generator)
        else:
            sample = self.procedural.training(number, views, generator)
        if not self.config.augment:
            return sample
        input_image, images = augmented(sample.input_image, sample.images, generator)
        return replace(sample, input_image=input_image, images=images)

    def _draw(self, views: int, generator: torch.Generator) -> Sample:
        drawn = torch.rand((), dtype=torch.float64, generator=generator) * self.until[-1]
        pack, index = self.trained[int(torch.searchsorted(self.until, drawn, right=True))]
        mesh, draws = pack.mesh(index), Draws(generator)
        obj, lighting = varied(mesh, draws), draw_lighting(draws)
        rig = draw_rig(self.config.rig, views, self.config.resolution, generator)
        return view_mesh(mesh, obj, lighting, rig, self.solids)

    def unseen(self, number: int) -> Sample:
        """See `SampleSource.unseen`; if all meshes have one shape, they are trained on as well."""
        generator = torch.Generator().manual_seed(number)
        pack, index = self.measured[number % len(self.measured)]
        mesh = pack.mesh(index)
        rig = draw_rig(unseen_rig(self.config.rig), measured_count(self.config.rig), self.config.resolution, generator)
        return view_mesh(mesh, pose(mesh), EVEN, rig, self.solids)


def view_mesh(mesh: StoredMesh, obj: MeshObject, lighting: Lighting, rig: Rig, solids: Solids) -> Sample:
    """Render a mesh, its front at azimuth `rig.front_deg`; the input camera is fitted to see the whole object."""
    rig = fitted(rig, torch.from_numpy(obj.vertices), BORDER)
    images = render(obj, turned(concatenate([rig.input_camera, rig.views]), -rig.front_deg), lighting)
    rgba = torch.cat([images.rgb, images.alpha], dim=-1)
    return Sample(rig, rgba[0], rgba[1:], images.depth[1:], None, solids.of(mesh, obj, rig.front_deg))


def unseen_rig(config: RigConfig) -> RigConfig:
    """Return the rig for evaluation: input views from all around, upright and with SV3D's lens.

    Views are free, since an orbit ends at the input view. Only a prior trained on orbits alone is evaluated on them.
    """
    return replace(
        config, input_azimuth_deg=180.0, input_elevation_deg=(-10.0, 45.0), lens_share=0.0, roll_deg=0.0, shift=0.0,
        orbit_share=float(config.orbit_share == 1), amplitude_deg=min(config.amplitude_deg, 44.0),
    )  # fmt: skip


def read_folder(folder: Path, config: DataConfig) -> list[Pack]:
    """Read the meshes of a folder that `config.licences` allows, as non-empty packs.

    Raises:
        InputError: the folder is missing or empty, holds both packs and mesh files, or holds faulty ones (see
            `read_pack`, `read_catalog` and `read_files`).
    """
    if not folder.is_dir():
        raise InputError(f"data.objects: {folder}: {'expected a folder' if folder.exists() else 'no such folder'}")
    paths, files = sorted(folder.glob("*.npz")), find_files(folder)
    if not paths and not files:
        raise InputError(f"data.objects: {folder}: found neither packs (*.npz) nor mesh files ({', '.join(SUFFIXES)})")
    if paths and files:
        found = f"{paths[0].name} and {files[0].relative_to(folder)}"
        raise InputError(f"data.objects: {folder}: holds both packs and mesh files ({found}); expected one kind")
    if files:
        return [read_files(folder)]  # the user's own files need no catalogue
    packs = [read_pack(path) for path in paths]
    if unknown := sorted(config.weights.keys() - {pack.name for pack in packs}):
        log.warning("data.weights: %s has no pack named %s", folder, " or ".join(unknown))
    entries = read_catalog(folder / CATALOG)
    for pack in packs:
        for name in pack.ids:
            if (pack.name, name) not in entries:
                raise InputError(f"{folder / CATALOG}: no row for {name} from {pack.name}.npz")
    allowed = iter(chosen([entries[pack.name, name] for pack in packs for name in pack.ids], config.licences))
    kept = [pack.only([index for index in range(len(pack)) if next(allowed)]) for pack in packs]
    if not any(map(len, kept)):
        raise InputError(f"data.objects: {folder}: data.licences excludes every object")
    return [pack for pack in kept if len(pack)]
