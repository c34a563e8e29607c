"""Generator of docs/config-reference.md from the code: python -m liftstudio.cli.config_reference [--check]."""

import dataclasses
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from liftstudio.cli import command_line
from liftstudio.cli.catalog import RUN, default_text, field_comments, nested_options, purpose
from liftstudio.core import registry
from liftstudio.core.config import option_key, type_name
from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write

PAGE = Path("docs/config-reference.md")  # relative to the root of a checkout, the current folder
COMMAND = "python -m liftstudio.cli.config_reference"
HEAD = f"""\
# Config reference

All components and options, with type, default and meaning. This page is generated from the code by
`{COMMAND}`; `liftstudio --list KIND` prints the same, including your own extensions.

A component is selected by `type:` in the config, with its options beside it; without options, its bare name is enough.
Any option can be set on the command line by its dotted key, for example `system.stages.coarse.steps=300`. `NAME` in a
key is a name of your choice. A *schedule* is a number, `[start_step, v0, v1, end_step]` or `[[step, value], ...]`. A
*share* such as `0.5x` stands for that part of the reference views' width in pixels.
"""
TABLE = ("| option | type | default | meaning |", "|---|---|---|---|")


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (default: that of this process) and return the exit code; see `command_line.guard`."""
    return command_line.guard(_dispatch, arguments)


def _dispatch(arguments: list[str]) -> int:
    parser = command_line.Parser(prog=COMMAND, description=f"Write {PAGE} from the code.", allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    options = parser.parse_args(arguments)
    registry.load_methods()
    if not options.check:
        atomic_write(PAGE, reference())
    elif not PAGE.is_file() or PAGE.read_text() != reference():
        raise InputError(f"{PAGE}: out of date; run {COMMAND}")
    return command_line.DONE


def reference() -> str:
    """Return the page: options of the run, of each component by kind, and of prior training."""
    from liftstudio.run.config import RunConfig
    from liftstudio.training.config import TrainingConfig

    sections = [HEAD, _section(RUN, "Top-level options of a run.", table(RunConfig))]
    for kind in registry.kinds():
        sections.append(f"## {kind}\n")
        for name in registry.names(kind):
            component = registry.find(name, kind)
            sections.append(f"### {kind}: {name}\n\n{purpose(component)}\n\n{table(component.Config)}")
    sections.append(_section("training", "Top-level options of prior training.", table(TrainingConfig)))
    return "\n".join(sections)


def _section(title: str, text: str, body: str) -> str:
    return f"## {title}\n\n{text}\n\n{body}"


def table(config: type) -> str:
    """Return the options of a config dataclass as a Markdown table, nested options under their dotted keys."""
    rows = list(_rows(config, ""))
    return "\n".join([*TABLE, *rows, ""]) if rows else "No options.\n"


def _rows(config: type, prefix: str) -> Iterator[str]:
    hints, comments = typing.get_type_hints(config, include_extras=True), field_comments(config)
    for field in dataclasses.fields(config):
        key, wanted = prefix + option_key(field.name), hints[field.name]
        nested = nested_options(wanted)
        default = "" if nested and field.default is dataclasses.MISSING else _default(field)
        cells = (f"`{key}`", type_name(wanted), default, comments.get(field.name, ""))
        escaped = [cell.replace("|", r"\|").replace("<", "&lt;") for cell in cells]
        yield f"| {' | '.join(escaped)} |"
        if nested:
            is_named = typing.get_origin(wanted) is dict
            yield from _rows(nested, f"{key}.NAME." if is_named else f"{key}.")


def _default(field: "dataclasses.Field[Any]") -> str:
    text = default_text(field)
    return "required" if text == "(required)" else f"`{text}`"


if __name__ == "__main__":
    sys.exit(main())
