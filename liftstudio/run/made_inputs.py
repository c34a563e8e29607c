"""Inputs of a run that networks make: a picture from `text`, a caption in place of an empty `prompt`."""

import re
from pathlib import Path

from liftstudio.core.assets import input_path, output_path
from liftstudio.core.config import to_plain
from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.run.config import RunConfig, load_run_config, load_without_input
from liftstudio.run.names import INPUTS, slug


def with_made_inputs(path: Path, overrides: list[str], gpus: list[int] | None) -> list[str]:
    """Return the overrides of a new run, with those for the inputs that the config asks networks to make.

    The picture of a text is kept in a folder in `runs_dir`/inputs, with all that were made to choose from, and is made
    only if it is not there yet. It is used as the prompt, too, where there is none.

    Args:
        path: the config file.
        overrides: key=value, see `load_run_config`.
        gpus: CUDA devices to use; None: those of the config.

    Raises:
        InputError: no pipeline is named for a text; there is a picture besides; see `best_picture` and `caption`.
    """
    config = load_without_input(path, overrides)
    if config.text:
        overrides = [*overrides, *_of_text(config, path, overrides, gpus)]
    if config.captioner and not config.text and config.prompt == "":
        overrides = [*overrides, f"prompt={_caption(config, gpus)}"]
    return overrides


def _of_text(config: RunConfig, path: Path, overrides: list[str], gpus: list[int] | None) -> list[str]:
    from liftstudio.views.text_pictures import HINT, OPTION  # slow to import

    if not config.text_to_image.model:
        raise InputError(f"text: needs {HINT}; name it by {OPTION}=...")
    if config.image is None:
        raise InputError(f"text: {path} takes no picture")
    if given := [override for override in overrides if re.match(r"images?[=.\[]", override)]:
        raise InputError(f"text: gives the picture, and so does {given[0]}; leave one of them out")
    picture = _place(config)
    made = [f"image={picture}", *([f"prompt={config.text}"] if config.prompt == "" else [])]
    load_run_config(path, [*overrides, *made])  # all options are checked before the picture is made
    if not picture.is_file():
        _make(config, picture, gpus)
    return made


def _place(config: RunConfig) -> Path:
    """Return the file of the picture, whose name tells all that decides it."""
    from liftstudio.core.cache import content_key  # slow to import

    key = content_key({**to_plain(config.text_to_image), "text": config.text, "seed": config.seed})
    name = f"{slug(config.text)[:40].replace('-', '_')}_{key[:8]}"
    return output_path(config.runs_dir) / INPUTS / name / f"{name}.png"


def _make(config: RunConfig, picture: Path, gpus: list[int] | None) -> None:
    from liftstudio.core.devices import first_device  # slow to import
    from liftstudio.data.images import save_image
    from liftstudio.views.text_pictures import best_picture, make_pictures

    options, device = config.text_to_image, first_device(config.device, gpus)
    seeds = range(config.seed, config.seed + options.count)
    text = config.text + options.suffix
    made = make_pictures(text, options.model, picture.parent, seeds=seeds, steps=options.steps, device=device)
    save_image(picture, best_picture(made))


def _caption(config: RunConfig, gpus: list[int] | None) -> str:
    from liftstudio.core.devices import first_device  # slow to import
    from liftstudio.views.captioner import caption
    from liftstudio.views.input_image import load_input_image

    picture = load_input_image(input_path(config.picture), box=config.image_box)
    text = caption(picture, config.captioner, first_device(config.device, gpus))
    log.info("captioner: %s", text)
    return text
