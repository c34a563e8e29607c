"""Which real meshes may be trained on, and who must be credited."""

import logging
from pathlib import Path
from typing import Any

import pytest
from packed_meshes import COLUMNS, open_meshes, variants, write_folder

from liftstudio.core.errors import InputError
from liftstudio.training.meshes import attribution
from liftstudio.training.meshes.catalog import is_allowed, is_attributed
from liftstudio.training.meshes.packs import StoredMesh, pack_of


@pytest.mark.parametrize(
    "licence",
    ["CC0", "CC0-1.0", "public domain", "public-domain", "CC-BY", "CC-BY-3.0", "CC-BY-3.0-US", "cc-by-4.0", "MIT",
     "MIT-0", "BSD-3-Clause", "0BSD", "Apache-2.0"],
)  # fmt: skip
def test_permissive_licences(licence: str) -> None:
    assert is_allowed(licence, "permissive")


@pytest.mark.parametrize("licence", ["CC0", "cc0-1.0", "public domain", "MIT-0", "0BSD"])
def test_licences_that_ask_for_nothing(licence: str) -> None:
    assert not is_attributed(licence)


@pytest.mark.parametrize(
    "licence", ["CC-BY-4.0", "MIT", "mit", "BSD-3-Clause", "Apache-2.0", "ISC", "GPL-3+", "unknown"]
)
def test_licences_that_ask_for_attribution(licence: str) -> None:
    assert is_attributed(licence)


@pytest.mark.parametrize(
    "licence",
    ["CC-BY-SA-4.0", "CC-BY-SA-4.0 and CC-BY-SA-3.0", "CC-BY-NC-3.0", "CC-BY-ND-4.0", "CC-BY-NC-SA-4.0", "GPL",
     "GPL-2.0-or-later", "Free-Art-1.3", "ISC", "unknown", "CC-BY-3.0 or GPL-2"],
)  # fmt: skip
def test_other_licences(licence: str) -> None:
    assert not is_allowed(licence, "permissive") and is_allowed(licence, "any") and is_allowed(licence, "others")


def test_objects_are_left_out_for_their_licence(
    meshes: list[StoredMesh], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path / "packs", [pack_of("free", meshes[:3]), pack_of("shared", meshes[3:])])
    text = (folder / "catalog.csv").read_text()
    (folder / "catalog.csv").write_text(text.replace("shared,CC0", "shared,CC-BY-SA-3.0"))
    with caplog.at_level(logging.INFO, "liftstudio"):
        source = open_meshes(folder)
    assert "objects: 5 left out because of their licences: CC-BY-SA-3.0 5" in caplog.text
    found = [pack.ids[i] for pack, i in source.trained + source.measured]
    assert sorted(found) == sorted(mesh.name for mesh in meshes[:3])
    source = open_meshes(folder, licences="any")
    assert len(source.trained) + len(source.measured) == 8
    others = open_meshes(folder, licences="others")
    assert {pack.name for pack, _ in others.trained + others.measured} == {"shared"}
    (folder / "catalog.csv").write_text(text.replace("CC0", "GPL"))
    with pytest.raises(InputError, match=r"data\.licences excludes every object"):
        open_meshes(folder)


def test_attribution_names_who_asks_for_it(meshes: list[StoredMesh], tmp_path: Path, capsys: Any) -> None:
    folder = write_folder(tmp_path / "packs", [pack_of("a", meshes[:2]), pack_of("b", meshes[2:4])])
    rows = [
        ("a", meshes[0].name, "CC-BY-3.0", "Ann", "Chair", "one.org"),
        ("a", meshes[1].name, "CC0", "Bob", "Cactus", "one.org"),
        ("b", meshes[2].name, "CC-BY-SA-4.0", "Cid", "Rock", "two.org"),
        ("b", meshes[3].name, "CC-BY-4.0", "", "", "two.org"),
        ("absent", "x", "CC-BY-4.0", "Dee", "Gone", "two.org"),
    ]
    lines = [",".join((row[1], row[0], *row[2:])) for row in rows]
    (folder / "catalog.csv").write_text("\n".join([",".join(COLUMNS), *lines]))
    assert attribution.main([str(folder)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# Training meshes whose licences ask for attribution\n\n")
    assert "## one.org\n\n- Ann, CC-BY-3.0: Chair\n\n## two.org\n\n" in shown
    assert f"- author unknown, CC-BY-4.0: {meshes[3].name}\n" in shown
    assert not any(word in shown for word in ("Bob", "Cid", "Dee"))
    assert attribution.main([str(folder), "--licences", "any", "--output", str(tmp_path / "ATTRIBUTION.md")]) == 0
    assert "- Cid, CC-BY-SA-4.0: Rock\n" in (tmp_path / "ATTRIBUTION.md").read_text()
    assert attribution.main([str(tmp_path)]) == 2
    assert "catalog.csv" in capsys.readouterr().err


def test_many_objects_are_counted_where_nobody_asks_for_their_titles(meshes: list[StoredMesh], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "packs", [pack_of("many", variants(meshes[0], 29))])
    cases = {"Apache-2.0": ("Ann", 13), "MIT": ("Bob", 3), "CC-BY-4.0": ("Cid", 13)}
    rows = [f"{licence},{author}" for licence, (author, count) in cases.items() for _ in range(count)]
    names = [f"{meshes[0].name}-{number}" for number in range(29)]
    lines = [f"{name},many,{row},thing {n:02},here" for n, (name, row) in enumerate(zip(names, rows, strict=True))]
    (folder / "catalog.csv").write_text("\n".join([",".join(COLUMNS), *lines]))
    assert attribution.attribution(folder).splitlines()[4:] == [
        "## here", "",
        "- Ann, Apache-2.0: 13 objects",
        "- Bob, MIT: thing 13, thing 14, thing 15",
        "- Cid, CC-BY-4.0: " + ", ".join(f"thing {n}" for n in range(16, 29)),
    ]  # fmt: skip
