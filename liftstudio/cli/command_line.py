"""The command line. `--help`, and errors in options outside components, do not wait for the import of torch."""

import argparse
import contextlib
import difflib
import importlib
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from liftstudio import __version__
from liftstudio.cli.completion import complete
from liftstudio.cli.view import add_address, check_viewer
from liftstudio.core import logs
from liftstudio.core.assets import find_config, input_path
from liftstudio.core.errors import InputError
from liftstudio.core.extensions import load_components
from liftstudio.core.files import atomic_write
from liftstudio.core.stopping import interrupt_on_sigterm
from liftstudio.run.jobs import NEW_RUN, Job
from liftstudio.studio.jobs import work

if TYPE_CHECKING:
    from liftstudio.run.folder import RunFolder

# Words that are commands: modules of this package that have `add_arguments(parser)` and `run(options)`.
COMMANDS = ("app", "compare", "relight", "report", "view")
MODES = ("train", "preview", "views", "plan", "resume", "validate", "test", "export")
DONE, BUG, BAD_INPUT, INTERRUPTED, OUT_OF_MEMORY = 0, 1, 2, 3, 4


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (default: that of this process) and return the exit code."""
    return guard(_dispatch, arguments)


def guard(dispatch: Callable[[list[str]], int], arguments: list[str] | None) -> int:
    """Return the exit code of a command line (None: that of this process), which `dispatch` runs.

    An error is printed as one line on stderr; with `--debug` among the arguments, after its traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with interrupt_on_sigterm():
            return dispatch(arguments)
    except SystemExit as error:  # argparse's --help and --version
        return int(error.code or 0)
    except BaseException as error:
        if "--debug" in arguments:
            traceback.print_exc()
        code, message = _explain(error)
        sys.stderr.write(f"{message}\n")
        return code


def _dispatch(arguments: list[str]) -> int:
    complete(_parser(), COMMANDS)
    if arguments and arguments[0] in COMMANDS:
        return _command(arguments[0], arguments[1:])
    options = _parse(arguments)
    logs.configure(options.verbose)
    load_components(options.verbose)
    if options.copy_config is not None:
        copy_config(options.copy_config)
    elif options.list is not None:
        from liftstudio.cli.catalog import catalog

        sys.stdout.write(catalog(options.list))
    elif options.doctor:
        from liftstudio.cli import doctor

        sys.stdout.write(doctor.report())
    elif options.mode == "plan":
        from liftstudio.cli import plan

        plan.check_memory(options.card, options.memory)
        sys.stdout.write(plan.report(find_config(options.config), options.overrides, options.card, options.memory))
    else:
        _run(options, f"{program()} {shlex.join(arguments)}")
    return DONE


def _command(name: str, arguments: list[str]) -> int:
    """Run a command that is a word of its own, `liftstudio compare RUN RUN`."""
    command = importlib.import_module(f"liftstudio.cli.{name}")
    parser = Parser(prog=f"{program()} {name}", description=command.__doc__, allow_abbrev=False)
    command.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    logs.configure(verbose=False)
    load_components()
    command.run(options)
    return DONE


def _run(options: argparse.Namespace, command: str) -> None:
    """Do the job; if it is interrupted, say how to continue."""
    config = find_config(options.config) if options.mode in NEW_RUN else options.config
    gpus = None if options.gpu is None else tuple(options.gpu)
    folders = list["RunFolder"]()
    try:
        with _viewer(options):
            work(Job(options.mode, config, tuple(options.overrides), gpus, command), folders.append)
    except KeyboardInterrupt as error:
        if not folders:
            raise
        where = getattr(error, "where", "at once")
        resume = f"{program()} --config {folders[0].config} --resume"
        raise KeyboardInterrupt(f"stopped {where}; continue with: {resume}") from None


def _viewer(options: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    """Return a context in which the live viewer shows the run, if it was asked for."""
    if not options.viewer:
        return contextlib.nullcontext()
    if options.mode not in ("train", "resume"):
        raise InputError("--viewer needs --train or --resume; `liftstudio view RUN` shows a run as it is")
    if options.gpu is not None and len(options.gpu) > 1:
        raise InputError("--viewer needs a single device; `liftstudio view RUN` shows a run on several")
    check_viewer(options.viewer_port)
    from liftstudio.studio.viewer.live import viewing

    return viewing(options.viewer_host, options.viewer_port)


def copy_config(name: Path) -> Path:
    """Copy the packaged config of that name into the current folder, and return the path of the copy.

    Raises:
        InputError: there is no such config, or a file of that name exists already.
    """
    source = find_config(Path(name.name))
    target = Path(source.name)
    if target.exists():
        raise InputError(f"{target}: exists already; move it away to copy the packaged one")
    atomic_write(target, source.read_text())
    logs.log.info("config: %s", target)
    return target


def program() -> str:
    """Return how the user started the program: `liftstudio`, `python -m liftstudio` or `python launch.py`."""
    name = Path(sys.argv[0]).name
    return {"launch.py": "python launch.py", "__main__.py": "python -m liftstudio"}.get(name, "liftstudio")


class Parser(argparse.ArgumentParser):
    """An argument parser that raises InputError for invalid arguments."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def _parser() -> Parser:
    parser = Parser(
        prog=program(),
        usage=f"{program()} --config FILE ({' | '.join(f'--{mode}' for mode in MODES)}) [key=value ...]",
        description="Textured 3D meshes from images. Any option of the config can be set by its dotted key: seed=1",
        epilog=f"commands, each with its own --help: {', '.join(COMMANDS)}. "
        "Exit codes: 0 done, 1 a bug, 2 bad input, 3 interrupted (resumable), 4 out of memory",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        type=input_path,
        metavar="FILE",
        help="config file, name of a packaged config, or a run's config.yaml",
    )
    mode = parser.add_mutually_exclusive_group()
    for name, text in {
        "train": "optimise all stages, then test and export",
        "preview": "write the volume of the prior as a coloured mesh, in seconds; --resume continues from there",
        "views": "generate the reference views only; --resume continues from there",
        "plan": "say how much memory each phase takes and whether it fits; nothing is run or written",
        "resume": "continue exactly where a run stopped, then test and export",
        "validate": "write an image grid of a run's newest checkpoint",
        "test": "write turntable video, passes and metrics of a run's newest checkpoint",
        "export": "write mesh files of a run's newest checkpoint",
    }.items():
        mode.add_argument(f"--{name}", dest="mode", action="store_const", const=name, help=text)
    mode.add_argument("--list", nargs="?", const="", metavar="KIND", help="list all components, or a kind with options")
    mode.add_argument("--copy-config", type=Path, metavar="NAME", help="copy a packaged config here, for editing")
    mode.add_argument("--doctor", action="store_true", help="show backends and why, versions, memory, extensions")
    parser.add_argument("--card", metavar="NAME", help="with --plan: a graphics card such as rtx-4090")
    parser.add_argument("--memory", type=float, metavar="GB", help="with --plan: a graphics card of so many gigabytes")
    parser.add_argument("--gpu", type=_gpus, metavar="0,1", help="CUDA devices to use (default: those of the config)")
    parser.add_argument(
        "--viewer", action="store_true", help="show the run in a browser while it goes on, and steer it"
    )
    add_address(parser, "--viewer-")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--verbose", action="store_true", help="also show debug messages and warnings of libraries")
    parser.add_argument("--version", action="version", version=f"liftstudio {__version__}")
    return parser


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    for word in rest:
        if word.startswith("-"):
            raise InputError(_unknown_flag(word, list(parser._option_string_actions)))
        if "=" not in word:
            raise InputError(f"'{word}': expected a flag or key=value, for example seed=1")
    options.overrides = rest
    if options.mode is None and options.list is None and options.copy_config is None and not options.doctor:
        modes = ", ".join(f"--{mode}" for mode in MODES)
        raise InputError(f"nothing to do; give one of {modes}, --list, --copy-config, --doctor")
    if options.mode is not None and options.config is None:
        raise InputError(f"--{options.mode} needs --config FILE")
    if options.mode != "plan" and (options.card, options.memory) != (None, None):
        raise InputError("--card and --memory need --plan")
    return options


def _unknown_flag(word: str, known: list[str]) -> str:
    flag, _, value = word.partition("=")
    near = difflib.get_close_matches(flag, known, n=1)
    if near:
        return f"unknown flag '{flag}'; did you mean '{near[0]}'?"
    if value:
        return f"unknown flag '{flag}'; options of the config have no dashes: {flag.lstrip('-')}={value}"
    return f"unknown flag '{flag}'; see --help"


def _gpus(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise argparse.ArgumentTypeError(f"expected device numbers such as 0 or 0,1, got '{text}'")
    return [int(part) for part in parts]


def _explain(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the one-line message for an error that ends the program."""
    if isinstance(error, InputError):
        return BAD_INPUT, f"error: {error}"
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, str(error) or "interrupted"
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY, f"error: {error or 'out of memory'}"
    if isinstance(error, OSError) and error.errno is not None:
        return BAD_INPUT, f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror}"
    line = " ".join(str(error).split())
    return (
        BUG,
        f"bug: {type(error).__name__}: {line}; please report it with the output of the same command with --debug",
    )
