"""Package trained weights as files of this project: python -m liftstudio.priors.package WEIGHTS FOLDER."""

import shutil
import sys
from pathlib import Path

from liftstudio import cli, logs
from liftstudio.errors import InputError
from liftstudio.files import atomic_path, atomic_write


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (default: this process's); returns an exit code with the meaning that `launch.py`'s have."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return cli.guard(lambda: _dispatch(arguments), debug="--debug" in arguments)


def _dispatch(arguments: list[str]) -> int:
    parser = cli.Parser(
        prog="python -m liftstudio.priors.package",
        description="Copy a prior's weights into a folder, with the SHA-256 that is checked when asset:// opens them",
        allow_abbrev=False,
    )
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="what training wrote: weights.safetensors")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="assets/priors/<name>; add a README.md there")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    logs.configure(verbose=False)
    package(options.weights, options.folder)
    return cli.DONE


def package(weights: Path, folder: Path) -> None:
    """Write weights.safetensors and SHA256SUMS (as sha256sum does) to `folder`.

    Raises:
        InputError: `weights` is not a readable .safetensors file.
    """
    from liftstudio.cache import file_digest
    from liftstudio.priors.weights import SUMS, Weights

    if weights.suffix != ".safetensors" or not weights.is_file():
        raise InputError(f"{weights}: wanted a .safetensors file")
    Weights(weights)
    copy = folder / "weights.safetensors"
    with atomic_path(copy) as temporary:
        shutil.copyfile(weights, temporary)
    atomic_write(folder / SUMS, f"{file_digest(copy)}  {copy.name}\n")
    logs.log.info("packaged: %s, %.1f MB", copy, copy.stat().st_size / 1e6)


if __name__ == "__main__":
    sys.exit(main())
