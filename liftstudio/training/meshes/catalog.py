"""Catalogue of meshes: sources and licences."""

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.training.data import Licences

CATALOG = "catalog.csv"

_UNCONDITIONAL = re.compile(r"CC0(-.*)?|public[- ]domain|MIT-0|0BSD", re.IGNORECASE)
_ATTRIBUTION = re.compile(r"CC-BY(-\d[\d.]*(-(?!SA|NC|ND)[A-Z]{2,3})?)?|MIT|BSD(-.*)?|Apache(-.*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """A row of the catalogue."""

    id: str
    pack: str
    licence: str
    author: str = ""
    title: str = ""
    source: str = ""


def read_catalog(path: Path) -> dict[tuple[str, str], Entry]:
    """Read the rows of a catalogue, by pack and id.

    Raises:
        InputError: the file, a column or a licence is missing, or an object is listed twice.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = {"id", "pack", "licence"} - set(reader.fieldnames or ())
            rows = list(reader)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable table: {error}") from None
    if missing:
        raise InputError(f"{path}: column missing: {', '.join(sorted(missing))}")
    entries: dict[tuple[str, str], Entry] = {}
    for row in rows:
        entry = Entry(**{name: (row.get(name) or "").strip() for name in Entry.__dataclass_fields__})
        if not entry.licence:
            raise InputError(f"{path}: {entry.id}: no licence is given")
        if (entry.pack, entry.id) in entries:
            raise InputError(f"{path}: {entry.id}: listed twice for the pack {entry.pack}")
        entries[entry.pack, entry.id] = entry
    return entries


def is_allowed(licence: str, licences: Licences) -> bool:
    """Return whether `licences` includes it. Permissive licences are those like CC0, CC-BY, MIT, BSD and Apache."""
    is_permissive = not is_attributed(licence) or _ATTRIBUTION.fullmatch(licence) is not None
    return licences == "any" or is_permissive == (licences == "permissive")


def is_attributed(licence: str) -> bool:
    """Return whether it requires attribution; all do except CC0, public domain, MIT-0 and 0BSD."""
    return _UNCONDITIONAL.fullmatch(licence) is None


def chosen(entries: list[Entry], licences: Licences) -> list[bool]:
    """Return which of N entries may be trained on; logs how many are left out, by licence."""
    allowed = [is_allowed(entry.licence, licences) for entry in entries]
    left_out = Counter(entry.licence for entry, is_kept in zip(entries, allowed, strict=True) if not is_kept)
    if left_out:
        counts = ", ".join(f"{licence} {count}" for licence, count in left_out.most_common())
        log.info("objects: %d left out because of their licences: %s", left_out.total(), counts)
    return allowed
