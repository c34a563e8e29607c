"""Package trained weights as files of this project: python -m liftstudio.cli.package_prior WEIGHTS FOLDER."""

import shutil
import sys
from pathlib import Path

from liftstudio.cli import command_line
from liftstudio.core import logs
from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_path, atomic_write


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (default: this process's); returns an exit code with the meaning that `launch.py`'s have."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return command_line.guard(lambda: _dispatch(arguments), debug="--debug" in arguments)


def _dispatch(arguments: list[str]) -> int:
    parser = command_line.Parser(
        prog="python -m liftstudio.cli.package_prior",
        description="Copy a prior's weights into a folder, with the SHA-256 that is checked when asset:// opens them",
        allow_abbrev=False,
    )
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="what training wrote, a file or a folder")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="assets/priors/<name>; add a README.md there")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    logs.configure(verbose=False)
    package(options.weights, options.folder)
    return command_line.DONE


def package(weights: Path, folder: Path) -> None:
    """Write SHA256SUMS (as sha256sum does) and what it names to `folder`: weights.safetensors, or a folder's files.

    Raises:
        InputError: `weights` is neither a readable .safetensors file nor a folder with some.
    """
    from liftstudio.core.cache import file_digest
    from liftstudio.core.weights import SUMS, Weights

    files = _named(weights)
    if not any(file.suffix == ".safetensors" for file in files.values()):
        raise InputError(f"{weights}: expected a .safetensors file, or a folder with some")
    for file in files.values():
        if file.suffix == ".safetensors":
            Weights(file)
    for name, file in files.items():
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(file, temporary)
    atomic_write(folder / SUMS, "".join(f"{file_digest(folder / name)}  {name}\n" for name in files))
    logs.log.info("packaged: %s, %.1f MB", folder, sum((folder / name).stat().st_size for name in files) / 1e6)


def _named(weights: Path) -> dict[str, Path]:
    """What is packaged, by its name in the package."""
    if weights.is_dir():
        files = sorted(file for file in weights.rglob("*") if file.is_file())
        return {file.relative_to(weights).as_posix(): file for file in files}
    return {f"weights{weights.suffix}": weights} if weights.is_file() else {}


if __name__ == "__main__":
    sys.exit(main())
