"""Held-out meshes as captures: `python -m bench.held_out_captures FOLDER OUT [--count 10]`.

FOLDER holds packs with their catalogue, or mesh files, as for `bench.objects_prior`. Of those that training holds out,
the first are rendered by the cameras of `bench.several_images`: from the front, the back and the left, then eight true
views. `bench.single_image OUT --sides back left` measures the meshes that runs make of them.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
import trimesh

from bench.several_images import rig_of
from liftstudio.cli import command_line
from liftstudio.core.assets import input_path, output_path
from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write
from liftstudio.data.cameras import concatenate, turned
from liftstudio.data.images import straight_from_white
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.training.data import DataConfig
from liftstudio.training.meshes.packs import StoredMesh
from liftstudio.training.meshes.posing import pose
from liftstudio.training.meshes.rendering import EVEN, render
from liftstudio.training.meshes.source import MeshObjects
from liftstudio.views.saving import save_views

SIZE = 256  # pixels across a view


def write(mesh: StoredMesh, number: int, folder: Path) -> None:
    """Write a mesh and its views as the capture `folder`; the number fixes the cameras."""
    rig, obj = rig_of(number), pose(mesh)
    cameras = concatenate([rig.true, rig.novel]).resized(SIZE, SIZE)
    seen = render(obj, turned(cameras, -rig.front_deg), EVEN)
    held_out = torch.arange(len(cameras)) >= len(rig.true)
    names = tuple(map(str, range(len(cameras))))
    save_views(folder, ReferenceViews(straight_from_white(seen.rgb, seen.alpha), seen.alpha, cameras, names, held_out))
    solid = trimesh.Trimesh(obj.vertices, obj.faces, process=False)
    solid.apply_transform(trimesh.transformations.rotation_matrix(math.radians(rig.front_deg), [0, 0, 1]))
    solid.export(folder / "mesh.ply")
    file = folder / "transforms.json"
    atomic_write(file, json.dumps({**json.loads(file.read_text()), "mesh": "mesh.ply"}, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Write the captures; return an exit code with the meanings of `launch.py`.

    arguments: the command line (default: that of this process).
    """
    return command_line.guard(_dispatch, arguments)


def _dispatch(arguments: list[str]) -> int:
    parser = command_line.Parser(
        prog="python -m bench.held_out_captures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("out", metavar="OUT", type=output_path)
    parser.add_argument("--count", type=int, default=10, help="maximum number of objects")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.count < 1:
        raise InputError("--count: expected 1 or more")
    source = MeshObjects(DataConfig(objects=str(input_path(options.folder))))
    for number, (pack, index) in enumerate(source.measured[: options.count]):
        write(pack.mesh(index), number, options.out / f"{number:02d}-{Path(pack.ids[index]).stem}")
    return command_line.DONE


if __name__ == "__main__":
    sys.exit(main())
