"""Even faces from Instant Meshes: a script that `remesh` runs in a process of its own; imports only numpy and it.

The library writes to standard output and ends the process where it fails.
"""

import sys
from pathlib import Path

import numpy as np
import pyinstantmeshes
from numpy.typing import NDArray


def main() -> None:
    """Remesh the surface in a folder; command-line arguments: the folder, corners of a face (3 or 4) and edge length.

    Input:  the file input.npz with vertices [V, 3] float32 and faces [F, 3] int64.
    Output: the file output.npz with vertices [V, 3] float32 and faces [F, corners] int64.
    """
    folder, corners, edge_length = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    mesh = np.load(folder / "input.npz")
    source, result = folder / "input.obj", folder / "output.obj"
    with source.open("w") as file:
        np.savetxt(file, mesh["vertices"], "v %.9g %.9g %.9g")
        np.savetxt(file, mesh["faces"] + 1, "f %d %d %d")
    # Faces with other than four corners are got rid of by splitting every edge in half.
    options = {"rosy": 4, "posy": 4, "pure_quad": True} if corners == 4 else {"rosy": 6, "posy": 3}
    length = 2 * edge_length if corners == 4 else edge_length
    pyinstantmeshes.remesh_file(
        str(source), str(result), target_edge_length=length, align_to_boundaries=True, deterministic=True, **options
    )
    vertices, faces = _read(result)
    np.savez(folder / "output.npz", vertices=vertices, faces=faces.reshape(-1, corners))


def _read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return vertices and faces of an OBJ file, of which all have the same number of corners."""
    rows = [line.split() for line in path.read_text().splitlines()]
    vertices = [row[1:4] for row in rows if row[:1] == ["v"]]
    faces = [[corner.split("/")[0] for corner in row[1:]] for row in rows if row[:1] == ["f"]]
    return np.array(vertices, np.float32).reshape(-1, 3), np.array(faces, np.int64) - 1


if __name__ == "__main__":
    main()
