"""Training of a prior: python -m liftstudio.cli.train_prior --config configs/priors/toys.yaml [key=value ...]."""

import sys
from pathlib import Path

from liftstudio.cli import command_line
from liftstudio.core import logs
from liftstudio.core.assets import find_config, input_path, output_path
from liftstudio.core.config import parse, read_config
from liftstudio.core.errors import InputError
from liftstudio.core.extensions import load_components


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (default: that of this process) and return the exit code; see `command_line.guard`."""
    return command_line.guard(_dispatch, arguments)


def _dispatch(arguments: list[str]) -> int:
    parser = command_line.Parser(
        prog="python -m liftstudio.cli.train_prior",
        description="Train or fine-tune a prior; the same command again continues. See docs/training-priors.md",
        epilog="exit codes: 0 done, 1 a bug, 2 bad input, 3 interrupted (resumable), 4 out of memory",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=input_path, required=True, metavar="FILE", help="config file, or name of a packaged config"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of the config")
    options = parser.parse_args(arguments)
    logs.configure(verbose=False)
    load_components()
    _train(options.config, options.overrides)
    return command_line.DONE


def _train(path: Path, overrides: list[str]) -> None:
    from liftstudio.training.config import TrainingConfig

    config = parse(read_config(find_config(path, "priors"), overrides), TrainingConfig)
    config.name = config.name or path.stem
    try:
        from liftstudio.training.loop import train
    except ModuleNotFoundError as error:
        if error.name != "pytorch_lightning":
            raise
        raise InputError("training needs pytorch-lightning: pip install pytorch-lightning") from None
    train(config, output_path(config.runs_dir) / config.name)


if __name__ == "__main__":
    sys.exit(main())
