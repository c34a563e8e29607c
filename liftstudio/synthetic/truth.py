"""Ground-truth meshes of an object: the closed union of its parts, with colour."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import manifold3d
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from liftstudio.data.mesh import Mesh
from liftstudio.data.mesh_io import MAX_FACES
from liftstudio.export.options import ExportConfig, Format
from liftstudio.export.pipeline import export_mesh
from liftstudio.synthetic.assembly import Floats, Ints, TexturedObject

_SAMPLES = 200_000  # points on the surface, about 0.004 world units apart, labelled with their part


def part_mesh(obj: TexturedObject, part: int) -> Mesh:
    """Return one part: a closed surface, including what lies inside other parts."""
    used, faces = np.unique(obj.faces[obj.part == part], return_inverse=True)
    return Mesh(torch.from_numpy(obj.vertices[used]), torch.from_numpy(faces.reshape(-1, 3)).long())


def to_mesh(obj: TexturedObject) -> Mesh:
    """Return the closed surface of the union of all parts, without interior faces; world units.

    By parity, the raw faces of overlapping parts would mark regions inside an even number of parts as outside.
    """
    return _union(obj)[0]


def save_truth(obj: TexturedObject, folder: Path, formats: Sequence[Format] = ("glb",)) -> dict[str, Any]:
    """Write the union with its albedo to `folder` as mesh.glb, mesh.obj or mesh.ply; return the `export_mesh` report.

    Raises:
        OSError: the folder is not writable.
    """
    mesh, part = _union(obj)
    samples, part_of_sample = _labelled_samples(mesh, part)
    tree = cKDTree(samples)

    def albedo(points: Tensor) -> Tensor:
        nearest = tree.query(points.numpy())[1]
        return torch.from_numpy(obj.albedo(points.numpy(), part_of_sample[nearest]))

    options = ExportConfig(formats=list(formats), target_faces=MAX_FACES, min_component_area=0.0)
    return export_mesh(mesh, albedo, folder, options)


def _union(obj: TexturedObject) -> tuple[Mesh, Ints]:
    """Return the union, and the part [F] that each face comes from."""
    count = len(obj.patterns)
    first_id = manifold3d.Manifold.reserve_ids(count)
    solids = [_solid(part_mesh(obj, part), first_id + part) for part in range(count)]
    joined = manifold3d.Manifold.batch_boolean(solids, manifold3d.OpType.Add).to_mesh()
    part = np.repeat(np.array(joined.run_original_id, np.int64) - first_id, np.diff(joined.run_index) // 3)
    vertices, faces = np.array(joined.vert_properties), joined.tri_verts.astype(np.int64)
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(faces)), part


def _solid(mesh: Mesh, identifier: int) -> manifold3d.Manifold:
    """Return a part whose faces carry `identifier`, so that they can be found in the union."""
    run, original = np.array([0, mesh.faces.numel()], np.uint32), np.array([identifier], np.uint32)
    faces = mesh.faces.numpy().astype(np.uint32)
    return manifold3d.Manifold(manifold3d.Mesh(mesh.vertices.numpy(), faces, run_index=run, run_original_id=original))


def _labelled_samples(mesh: Mesh, part: Ints) -> tuple[Floats, Ints]:
    """Sample points [N, 3] uniformly over the surface; return them with their parts [N]."""
    generator = torch.Generator().manual_seed(0)
    area = np.bincount(part, mesh.face_area_vectors().norm(dim=-1).numpy())
    counts = np.ceil(_SAMPLES * area / area.sum()).astype(int)
    samples = [
        Mesh(mesh.vertices, mesh.faces[torch.from_numpy(part == k)]).sample(int(count), generator).numpy()
        for k, count in enumerate(counts)
        if count > 0
    ]
    return np.concatenate(samples), np.repeat(np.arange(len(counts)), counts)
