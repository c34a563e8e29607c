"""`python -m liftstudio.priors.training.meshes.attribution FOLDER`: whom to name for a prior trained on its meshes."""

import argparse
import sys
from itertools import groupby
from pathlib import Path
from typing import get_args

from liftstudio.errors import InputError
from liftstudio.files import atomic_write
from liftstudio.priors.training.data import Licences
from liftstudio.priors.training.meshes.catalog import CATALOG, Entry, is_allowed, is_attributed, read_catalog


def attribution(folder: Path, licences: Licences = "permissive") -> str:
    """Markdown: the objects of a folder's packs that ask for attribution, by source, then author and licence.

    licences: what `data.licences` was.

    Raises:
        InputError: see `read_catalog`.
    """
    entries = [entry for entry in read_catalog(folder / CATALOG).values() if (folder / f"{entry.pack}.npz").is_file()]
    named = [entry for entry in entries if is_attributed(entry.licence) and is_allowed(entry.licence, licences)]
    lines = ["# Meshes under Creative Commons Attribution", ""]
    lines += ["They were scaled, turned, simplified, recoloured and rendered.", ""]
    for source, of_source in groupby(sorted(named, key=_key), key=lambda entry: entry.source):
        lines += [f"## {source or 'Source unknown'}", ""]
        for (author, licence), same in groupby(of_source, key=lambda entry: (entry.author, entry.licence)):
            titles = ", ".join(sorted({entry.title or entry.id for entry in same}))
            lines.append(f"- {author or 'author unknown'}, {licence}: {titles}")
        lines.append("")
    return "\n".join(lines)


def _key(entry: Entry) -> tuple[str, str, str]:
    return entry.source, entry.author, entry.licence


def main(arguments: list[str] | None = None) -> int:
    """Print the list, or write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what data.objects was")
    parser.add_argument("--licences", choices=get_args(Licences), default="permissive", help="what data.licences was")
    parser.add_argument("--output", type=Path, help="file to write, instead of standard output")
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
