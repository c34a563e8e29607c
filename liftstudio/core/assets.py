"""Files that come with the project: configs, and the assets that configs refer to as `asset://...`."""

import difflib
import os
from importlib import resources
from pathlib import Path

from liftstudio.core.errors import InputError

SCHEME = "asset://"
PACKAGE = Path(str(resources.files("liftstudio")))
CHECKOUT = PACKAGE.parent  # the repository's root, if the package lies in a checkout


def is_checkout() -> bool:
    """Return whether the package lies in a checkout; an installed package contains the data folders itself."""
    return (CHECKOUT / "pyproject.toml").is_file() and not (PACKAGE / "assets").is_dir()


def packaged(folder: str) -> Path:
    """Return the path of the packaged folder `assets` or `configs`."""
    return (CHECKOUT if is_checkout() else PACKAGE) / folder


def find_config(path: Path, folder: str = "") -> Path:
    """Return the config file at `path`; a bare name is looked up in the current folder, then in the packaged configs.

    folder: subfolder of the packaged `configs/` to look in: "priors" for prior training.

    Raises:
        InputError: the config is in neither place, or is a folder; names the packaged config with the most similar
            name.
    """
    if len(path.parts) > 1 or path.is_file():
        if path.is_dir():
            run = f"; to continue the run in it: --config {path} --resume" if (path / "config.yaml").is_file() else ""
            raise InputError(f"{path}: is a folder; expected a config file{run}")
        return path
    name = path.name if path.suffix == ".yaml" else f"{path.name}.yaml"
    found = next((place for place in (Path(name), packaged("configs") / folder / name) if place.is_file()), None)
    if found is None:
        known = sorted(file.stem for file in (packaged("configs") / folder).glob("*.yaml"))
        near = difflib.get_close_matches(Path(name).stem, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"packaged: {', '.join(known)}"
        given = f"{path} (a folder)" if path.is_dir() else path
        raise InputError(f"config not found: {given}; {hint}")
    return found


def input_path(text: str) -> Path:
    """Return the path of a packaged file (`asset://demo/mario`) or of a user's file, relative to the current folder.

    A leading `~` is the home folder; where there is none, it is part of the name.
    """
    if text.startswith(SCHEME):
        return packaged("assets") / text.removeprefix(SCHEME)
    return Path(os.path.expanduser(text))  # noqa: PTH111  # Path.expanduser raises where there is no home folder


def output_path(text: str | Path) -> Path:
    """Return the path of a folder or file to write, relative to the current folder; a leading `~` is the home folder.

    Raises:
        InputError: the user has no home folder, or after `~` is no user's name.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"{text}: there is no home folder for '{Path(text).parts[0]}'; give the full path") from None
