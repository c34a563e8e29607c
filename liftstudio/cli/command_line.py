"""The command line. `--help`, and errors in options outside components, do not wait for the import of torch."""

import argparse
import difflib
import math
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from liftstudio import __version__
from liftstudio.core import assets, logs, registry
from liftstudio.core.assets import find_config, input_path
from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write
from liftstudio.core.stopping import interrupt_on_sigterm

if TYPE_CHECKING:
    from liftstudio.run.folder import RunFolder

DONE, BUG, BAD_INPUT, INTERRUPTED, OUT_OF_MEMORY = 0, 1, 2, 3, 4
MODES = ("train", "preview", "views", "resume", "validate", "test", "export", "relight")
MOST_STOPS = 20  # of --exposure
NEW_RUN = ("train", "preview", "views")  # modes that start from any config; the others need a run


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (default: that of this process) and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return guard(lambda: _dispatch(arguments), debug="--debug" in arguments)


def guard(work: Callable[[], int], *, debug: bool) -> int:
    """Return the exit code of `work`; an error is printed as one line on stderr, with `debug` after its traceback."""
    try:
        with interrupt_on_sigterm():
            return work()
    except SystemExit as error:  # argparse's --help and --version
        return int(error.code or 0)
    except BaseException as error:
        if debug:
            traceback.print_exc()
        code, message = _explain(error)
        sys.stderr.write(f"{message}\n")
        return code


def _dispatch(arguments: list[str]) -> int:
    options = _parse(arguments)
    logs.configure(options.verbose)
    load_extensions(options.verbose)
    if options.copy_config is not None:
        copy_config(options.copy_config)
    elif options.list is not None:
        from liftstudio.cli.catalog import catalog

        sys.stdout.write(catalog(options.list))
    elif options.doctor:
        from liftstudio.cli.doctor import report

        sys.stdout.write(report())
    else:
        _run(options, f"{program()} {shlex.join(arguments)}")
    return DONE


def _run(options: argparse.Namespace, command: str) -> None:
    from liftstudio.run.config import load_run_config

    if options.light is not None and not options.light.is_file():
        raise InputError(f"--light: {options.light}: no such file")
    folder = None if options.mode in NEW_RUN else _reopened(options.config)
    config = load_run_config(folder.config if folder else find_config(options.config), options.overrides)

    from liftstudio.run.run import Run, make_preview, make_views  # slow to import, so a bad config is reported first

    if options.mode == "views":
        make_views(config, command, options.gpu)
    elif options.mode == "preview":
        make_preview(config, command, options.gpu)
    elif folder is None:
        run = Run.start(config, command, options.gpu)
        with run.folder.lock():
            _work(run, options)
    else:
        with folder.lock():
            run = Run.reopen(config, folder, command, options.gpu, finished=options.mode != "resume")
            _work(run, options)


def _work(run: Any, options: argparse.Namespace) -> None:
    """Do what a mode asks of a run; if it is interrupted, say how to continue."""
    from liftstudio.run.run import Interrupted

    try:
        _steps(run, options)
    except KeyboardInterrupt as error:
        where = error.where if isinstance(error, Interrupted) else "at once"
        resume = f"{program()} --config {run.folder.config} --resume"
        raise KeyboardInterrupt(f"stopped {where}; continue with: {resume}") from None


def _reopened(config: Path) -> "RunFolder":
    from liftstudio.run.folder import existing_run_folder

    return existing_run_folder(config)


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


def _steps(run: Any, options: argparse.Namespace) -> None:
    mode = options.mode
    if mode in ("train", "resume"):
        run.fit()
    else:
        run.restore()
    if not run.fabric.is_global_zero:
        return
    if mode == "validate":
        run.validate()
    if mode in ("train", "resume", "test"):
        run.test()
    if mode in ("train", "resume", "export"):
        run.export()
    if mode == "relight":
        run.relight(options.light, options.exposure)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises InputError for invalid arguments."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def _parser() -> Parser:
    parser = Parser(
        prog=program(),
        usage=f"{program()} --config FILE ({' | '.join(f'--{mode}' for mode in MODES)}) [key=value ...]",
        description="Textured 3D meshes from images. Any option of the config can be set by its dotted key: seed=1",
        epilog="exit codes: 0 done, 1 a bug, 2 bad input, 3 interrupted (resumable), 4 out of memory",
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
        "resume": "continue exactly where a run stopped, then test and export",
        "validate": "write an image grid of a run's newest checkpoint",
        "test": "write turntable video, passes and metrics of a run's newest checkpoint",
        "export": "write mesh files of a run's newest checkpoint",
        "relight": "write a turntable video of a run's newest checkpoint under the environment map of --light",
    }.items():
        mode.add_argument(f"--{name}", dest="mode", action="store_const", const=name, help=text)
    mode.add_argument("--list", nargs="?", const="", metavar="KIND", help="list all components, or a kind with options")
    mode.add_argument("--copy-config", type=Path, metavar="NAME", help="copy a packaged config here, for editing")
    mode.add_argument("--doctor", action="store_true", help="show backends and why, versions, memory, extensions")
    parser.add_argument("--light", type=input_path, metavar="FILE", help="environment map for --relight, Radiance HDR")
    parser.add_argument("--exposure", type=_stops, default=0.0, metavar="STOPS", help="brighten it: times 2^STOPS")
    parser.add_argument("--gpu", type=_gpus, metavar="0,1", help="CUDA devices to use (default: those of the config)")
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
    if options.mode == "relight" and options.light is None:
        raise InputError("--relight needs --light FILE, an environment map as Radiance HDR")
    if options.mode != "relight" and (options.light is not None or options.exposure):
        raise InputError("--light and --exposure belong to --relight")
    return options


def _unknown_flag(word: str, known: list[str]) -> str:
    flag, _, value = word.partition("=")
    near = difflib.get_close_matches(flag, known, n=1)
    if near:
        return f"unknown flag '{flag}'; did you mean '{near[0]}'?"
    if value:
        return f"unknown flag '{flag}'; options of the config have no dashes: {flag.lstrip('-')}={value}"
    return f"unknown flag '{flag}'; see --help"


def _stops(text: str) -> float:
    try:
        stops = float(text)
    except ValueError:
        stops = math.nan
    if not abs(stops) <= MOST_STOPS:
        raise argparse.ArgumentTypeError(f"expected stops from -{MOST_STOPS} to {MOST_STOPS}, got '{text}'")
    return stops


def _gpus(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise argparse.ArgumentTypeError(f"expected device numbers such as 0 or 0,1, got '{text}'")
    return [int(part) for part in parts]


def load_extensions(verbose: bool) -> None:
    """Import the user's extensions and declare the methods; warn about extensions that fail to load."""
    custom = Path("custom")
    if not assets.is_checkout() or custom.resolve() != assets.CHECKOUT / "custom":
        registry.load_extensions(custom)
    registry.load_methods()
    for name, trace in registry.extension_failures.items():
        reason = trace.strip() if verbose else trace.strip().splitlines()[-1]
        logs.log.warning("extension '%s' failed to load: %s", name, reason)


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
