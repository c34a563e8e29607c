"""Files that come with the project: configs, and what configs name `asset://...`."""

import difflib
from importlib import resources
from pathlib import Path

from liftstudio.core.errors import InputError

SCHEME = "asset://"
PACKAGE = Path(str(resources.files("liftstudio")))
CHECKOUT = PACKAGE.parent  # of the repository, if that is where the package lies


def is_checkout() -> bool:
    """Whether the package lies in a checkout; an installed package holds the checkout's folders itself."""
    return (CHECKOUT / "pyproject.toml").is_file() and not (PACKAGE / "assets").is_dir()


def packaged(folder: str) -> Path:
    """The path of `assets` or `configs`, as files."""
    return (CHECKOUT if is_checkout() else PACKAGE) / folder


def find_config(path: Path, folder: str = "") -> Path:
    """The config file at `path`; for a bare name, that of the current folder or else the packaged one.

    folder: of `configs/` where packaged ones are: "priors" for those of prior training.

    Raises:
        InputError: there is neither; says which packaged config is near.
    """
    if len(path.parts) > 1 or path.exists():
        return path
    name = path.name if path.suffix == ".yaml" else f"{path.name}.yaml"
    found = next((place for place in (Path(name), packaged("configs") / folder / name) if place.exists()), None)
    if found is None:
        known = sorted(file.stem for file in (packaged("configs") / folder).glob("*.yaml"))
        near = difflib.get_close_matches(Path(name).stem, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"packaged: {', '.join(known)}"
        raise InputError(f"config not found: {path}; {hint}")
    return found


def input_path(text: str) -> Path:
    """The path of a packaged file (`asset://demo/mario`) or of a user's file (relative to the current folder)."""
    if text.startswith(SCHEME):
        return packaged("assets") / text.removeprefix(SCHEME)
    return Path(text).expanduser()
