"""docs/config-reference.md: every component and option, and the check against the code."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from liftstudio.cli import command_line, config_reference
from liftstudio.cli.config_reference import PAGE, main, reference, table
from liftstudio.core import registry


@dataclass
class Part:
    rate: float  # per step, <= 1


@dataclass
class Options:
    """Every form of an option that a table writes in its own way."""

    form: Literal["a", "b"] = "a"  # one of two
    part: Part = field(default_factory=lambda: Part(0.5))  # a group
    parts: dict[str, Part] = field(default_factory=dict)  # by name
    from_: str = ""  # like a keyword


TABLE = r"""| option | type | default | meaning |
|---|---|---|---|
| `form` | a \| b | `a` | one of two |
| `part` | options |  | a group |
| `part.rate` | a finite number | required | per step, &lt;= 1 |
| `parts` | names with options each |  | by name |
| `parts.NAME.rate` | a finite number | required | per step, &lt;= 1 |
| `from` | text | `''` | like a keyword |
"""


def test_table() -> None:
    assert table(Options) == TABLE


def test_every_component_has_a_section() -> None:
    registry.load_methods()
    page = reference()
    for kind in registry.BUILTIN:
        assert all(f"\n### {kind}: {name}\n" in page for name in registry.names(kind)), kind


def test_a_stale_page_fails_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_reference, "reference", lambda: "# Config reference\n")
    PAGE.parent.mkdir()
    assert main(["--check"]) == command_line.BAD_INPUT  # there is none yet
    assert main([]) == main(["--check"]) == command_line.DONE
    PAGE.write_text("# Older\n")
    capsys.readouterr()
    assert main(["--check"]) == command_line.BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "docs/config-reference.md: out of date" in line
