"""`python -m liftstudio.training.meshes.attribution FOLDER`: whom to name for a prior trained on its meshes."""

import argparse
import sys
from itertools import groupby
from pathlib import Path
from typing import get_args

from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write
from liftstudio.training.data import Licences
from liftstudio.training.meshes.catalog import CATALOG, Entry, is_allowed, is_attributed, read_catalog

TITLES = 12  # of an author under one licence; more are counted, unless Creative Commons asks for them


def attribution(folder: Path, licences: Licences = "permissive") -> str:
    """Markdown: the objects of a folder's packs whose licences ask for attribution, by source, then author and licence.

    licences: what `data.licences` was.

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
    """What the objects of an author under one licence are called, or how many they are."""
    if len(entries) > TITLES and not entries[0].licence.upper().startswith("CC"):
        return f"{len(entries)} objects"
    return ", ".join(sorted({entry.title or entry.id for entry in entries}))


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
