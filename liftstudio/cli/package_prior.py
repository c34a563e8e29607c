"""Packaging of trained weights as an asset: python -m liftstudio.cli.package_prior WEIGHTS FOLDER."""

import shutil
import sys
from pathlib import Path

from liftstudio.cli import command_line
from liftstudio.core import logs
from liftstudio.core.assets import input_path, output_path
from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_path, atomic_write


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (default: that of this process) and return the exit code; see `command_line.guard`."""
    return command_line.guard(_dispatch, arguments)


def _dispatch(arguments: list[str]) -> int:
    parser = command_line.Parser(
        prog="python -m liftstudio.cli.package_prior",
        description="Copy a prior's weights into a folder, with SHA-256 digests that asset:// checks on opening",
        allow_abbrev=False,
    )
    parser.add_argument("weights", type=input_path, metavar="WEIGHTS", help="file or folder that training wrote")
    parser.add_argument(
        "folder", type=output_path, metavar="FOLDER", help="assets/priors/<name>; add a README.md there"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    logs.configure(verbose=False)
    package(options.weights, options.folder)
    return command_line.DONE


def package(weights: Path, folder: Path) -> None:
    """Copy `weights` to `folder`, a file as weights.safetensors, and write its SHA256SUMS in the format of sha256sum.

    Raises:
        InputError: `weights` is neither a readable .safetensors file nor a folder that contains one.
    """
    from liftstudio.core.cache import file_digest
    from liftstudio.core.weights import SUMS, Weights

    files = _named(weights)
    if not any(file.suffix == ".safetensors" for file in files.values()):
        raise InputError(f"{weights}: expected a .safetensors file, or a folder that contains one")
    for file in files.values():
        if file.suffix == ".safetensors":
            Weights(file)
    for name, file in files.items():
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(file, temporary)
    atomic_write(folder / SUMS, "".join(f"{file_digest(folder / name)}  {name}\n" for name in files))
    logs.log.info("packaged: %s, %.1f MB", folder, sum((folder / name).stat().st_size for name in files) / 1e6)


def _named(weights: Path) -> dict[str, Path]:
    """Return name in the package -> file to copy."""
    if weights.is_dir():
        files = sorted(file for file in weights.rglob("*") if file.is_file())
        return {file.relative_to(weights).as_posix(): file for file in files}
    return {f"weights{weights.suffix}": weights} if weights.is_file() else {}


if __name__ == "__main__":
    sys.exit(main())
