"""`python -m liftstudio.training.meshes.attribution FOLDER`: attribution for a prior trained on its meshes."""

import argparse
import sys
from itertools import groupby
from pathlib import Path
from typing import get_args

from liftstudio.core.assets import input_path, output_path
from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write
from liftstudio.training.data import Licences
from liftstudio.training.meshes.catalog import CATALOG, Entry, is_allowed, is_attributed, read_catalog

TITLES = 12  # listed per author and licence; more are only counted, unless a Creative Commons licence requires them


def attribution(folder: Path, licences: Licences = "permissive") -> str:
    """Return Markdown that lists the objects whose licences require attribution, by source, then author and licence.

    folder: holds packs and their catalogue. licences: the value of `data.licences` in training.

    Raises:
        InputError: see `read_catalog`.
    """
    entries = [entry for entry in read_catalog(folder / CATALOG).values() if (folder / f"{entry.pack}.npz").is_file()]
    named = [entry for entry in entries if is_attributed(entry.licence) and is_allowed(entry.licence, licences)]
    lines = ["# Training meshes whose licences ask for attribution", ""]
    lines += ["They were scaled, turned, simplified, recoloured and rendered.", ""]
    for source, of_source in groupby(sorted(named, key=_key), key=lambda entry: entry.source):
        lines += [f"## {source or 'Source unknown'}", ""]
        for (author, licence), same in groupby(of_source, key=lambda entry: (entry.author, entry.licence)):
            lines.append(f"- {author or 'author unknown'}, {licence}: {_titles(list(same))}")
        lines.append("")
    return "\n".join(lines)


def _titles(entries: list[Entry]) -> str:
    """Return the titles of the objects of one author and licence, or their number."""
    if len(entries) > TITLES and not entries[0].licence.upper().startswith("CC"):
        return f"{len(entries)} objects"
    return ", ".join(sorted({entry.title or entry.id for entry in entries}))


def _key(entry: Entry) -> tuple[str, str, str]:
    return entry.source, entry.author, entry.licence


def main(arguments: list[str] | None = None) -> int:
    """Print the attribution list, or write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=input_path, help="the value of data.objects in training")
    parser.add_argument(
        "--licences", choices=get_args(Licences), default="permissive", help="the value of data.licences in training"
    )
    parser.add_argument("--output", type=output_path, help="output file; default: standard output")
    options = parser.parse_args(arguments)
    try:
        text = attribution(options.folder, options.licences)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if options.output:
        atomic_write(options.output, text)
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
