"""What `bench.single_image` measures of one object: views of a prior, a run's mesh, or what needs neither."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.baselines import inflated, mean_mesh, mean_pictures, repeated
from bench.captures import Subject, read_subject, sides
from bench.prior_views import ask, fit, measure_prior, measured
from bench.runs import Pictures, Row, config_path, cost_of, in_own_process, render_glb, run_all
from liftstudio import assets, registry
from liftstudio.cache import file_digest
from liftstudio.errors import InputError
from liftstudio.evaluation import load_judges
from liftstudio.images import grid, save_image
from liftstudio.mesh import Mesh
from liftstudio.mesh_io import read_mesh
from liftstudio.metrics.novel_views import PIXELS, Judges
from liftstudio.metrics.truth import Truth, compare_mesh
from liftstudio.priors.opening import block_weights
from liftstudio.run import load_inputs
from liftstudio.run_config import RunConfig, first_device, load_run_config

BASELINES = ("repeated", "inflate", "mean", "toys")
LENS = ("elevation_deg", "distance", "fov_deg")  # options of views that say what the input view's camera is
CELL = 128  # pixels across a view in the strips that sheets are made of


@dataclass(frozen=True)
class Setting:
    """How all objects are worked on: a config, changes of it, and what is known of the input view."""

    config: str = "sv3d-masked-sds"
    overrides: tuple[str, ...] = ()
    view: str = ""
    estimate_elevation: bool = False

    def bundled(self) -> "Setting":
        """The same with the prior `toys` that comes with the project, whatever weights the user names."""
        own = [each for each in self.overrides if not each.partition("=")[0].endswith((".weights", "prior.type"))]
        return replace(self, overrides=(*own, "views.prior.type=auto", "views.prior.weights=asset://priors/toys"))

    @property
    def name(self) -> str:
        """For tables: the config and its weights."""
        weights = Path(self._views().prior.options.weights)
        return f"{Path(self.config).stem}, {'/'.join(weights.parts[-2:])}"

    def load(self, *options: str) -> RunConfig:
        """The config with these options, then the user's."""
        return load_run_config(config_path(self.config), [*options, *self.overrides])

    def check(self) -> None:
        """Before any long work.

        Raises:
            InputError: the config does not work from a picture, has no options for that picture's camera, or estimates
                no elevation where that is asked for.
        """
        views = self.load("image=none").views
        for name in ("image", "recenter", *LENS):
            if views is None or not hasattr(views.options, name):
                problem = f"{self.config}: its views have no option '{name}'"
                raise InputError(f"{problem}; wanted a config of one picture, whose camera can be given")
        if self.estimate_elevation:
            try:
                self.load("image=none", "views.elevation_deg=auto")
            except InputError:
                raise InputError(f"--estimate-elevation: {self.config} estimates no elevation; leave it out") from None

    def of(self, subject: Subject, picture: Path, *options: str) -> RunConfig:
        """The config for the subject's picture, as the capture has it."""
        lens = {name: str(getattr(subject.lens, name)) for name in LENS}
        if self.estimate_elevation:
            lens["elevation_deg"] = "auto"
        known = (f"views.{name}={value}" for name, value in lens.items())
        return self.load(f"image={picture}", "views.recenter=false", *known, *options)

    def read(self, capture: Path) -> Subject:
        """The capture, its input view at the azimuth that the config has for pictures."""
        return read_subject(capture, self.view, getattr(self._views(), "azimuth_deg", 0.0))

    def weights(self) -> str:
        """The digest of the prior's weight file."""
        return file_digest(block_weights(self._views().prior).path)

    def judges(self, subject: Subject) -> Judges:
        """What the config measures views by."""
        config = self.load("image=none")
        return load_judges(config.test, subject.name, first_device(config.device, None))

    def _views(self) -> Any:
        views = self.load("image=none").views
        assert views is not None
        return views.options


@dataclass(frozen=True)
class Task:
    """One way to work on one object; `others` are the other captures, which the mean object is of."""

    kind: str
    setting: Setting
    capture: Path
    others: tuple[Path, ...] = ()

    def key(self) -> Row:
        """What its rows are found by: all that decides them."""
        setting = self.setting
        key: Row = {"object": self.capture.resolve().name, "kind": self.kind, "view": setting.view}
        if self.kind in ("views", "mesh"):
            known = {"config": setting.config, "estimate_elevation": setting.estimate_elevation}
            return {**key, **known, "overrides": list(setting.overrides), "weights": setting.weights()}
        measures = [each for each in setting.overrides if each.startswith("test.")]
        others = [other.resolve().name for other in self.others] if self.kind == "mean" else []
        return {**key, "overrides": measures, "others": others}

    def method(self, row: Row) -> str:
        """The name of a row's method in tables."""
        if self.kind not in ("views", "mesh"):
            return {"repeated": "input repeated", "inflate": "silhouette inflated", "mean": "mean object"}[self.kind]
        return f"{self.setting.name}: {row['row']}"

    def measure(self, folder: Path, strips: Path) -> list[Row]:
        """Its rows; `folder` is for files of the moment, and for runs; `strips` for the pictures of sheets."""
        measure: dict[str, Callable[[Path, Path], list[Row]]] = {
            "views": self._prior_views,
            "repeated": lambda folder, strips: self._baseline(strips, lambda subject: (None, repeated(subject.views))),
            "inflate": lambda folder, strips: self._baseline(strips, inflated),
            "mean": lambda folder, strips: self._baseline(strips, self._mean),
            "mesh": lambda folder, strips: in_own_process(reconstruct, self, folder, strips),
        }
        return measure[self.kind](folder, strips)

    def picture(self, subject: Subject, folder: Path) -> Path:
        """The file of the input view, written there."""
        path = folder / f"{subject.name}.png"
        subject.save_picture(path)
        return path

    def strip(self, folder: Path, subject: Subject, name: str, images: Tensor) -> str:
        """The path of a PNG of some of the views, written there."""
        digest = hashlib.sha256(json.dumps([self.key(), name]).encode()).hexdigest()[:12]
        path = folder / f"{subject.name}-{digest}.png"
        save_strip(path, images[sides(subject.views)])
        return str(path)

    def _prior_views(self, folder: Path, strips: Path) -> list[Row]:
        subject = self.setting.read(self.capture)
        config = self.setting.of(subject, self.picture(subject, folder))
        assert config.views is not None
        asked = ask(config.views, subject, first_device(config.device, None))
        rows, pictures = measure_prior(asked, subject, self.setting.judges(subject))
        paths = {name: self.strip(strips, subject, name, images) for name, (images, _) in pictures.items()}
        return [{**row, "strip": paths[row["row"]]} for row in rows]

    def _baseline(self, strips: Path, make: Callable[[Subject], tuple[Mesh | None, Pictures | None]]) -> list[Row]:
        """Rows of a baseline; that of the largest pictures has its shape too."""
        subject = self.setting.read(self.capture)
        begin = time.perf_counter()
        mesh, pictures = make(subject)
        row: Row = {"row": self.kind, "views_s": time.perf_counter() - begin}
        looks: list[Row] = [{"pixels": min(PIXELS, subject.views.cameras.width)}]
        if pictures is not None:
            row["strip"] = self.strip(strips, subject, self.kind, pictures[0])
            looks = measured([pictures], subject.views, self.setting.judges(subject), small=True)
        if mesh is not None:
            looks[-1] |= shape_of(mesh, subject.truth)
        return [{**row, **look} for look in looks]

    def _mean(self, subject: Subject) -> tuple[Mesh | None, Pictures | None]:
        others = [self.setting.read(other) for other in self.others]
        return mean_mesh(subject, others), mean_pictures(subject, others)


def reconstruct(task: Task, folder: Path, strips: Path) -> list[Row]:
    """Run the task's config from picture to mesh; its row."""
    begin = time.perf_counter()
    registry.load_extensions(assets.ROOT / "custom")
    subject = task.setting.read(task.capture)
    folder.mkdir(parents=True, exist_ok=True)
    config = task.setting.of(
        subject,
        task.picture(subject, folder),
        f"runs_dir={folder / 'runs'}",
        f"tag={subject.name}",
        "export.formats=[glb]",
        "export.shaded=true",
    )
    inputs = load_inputs(config, None)
    views_seconds = time.perf_counter() - begin
    run = run_all(config, inputs, "python -m bench.single_image")
    cost = {"views_s": views_seconds, **cost_of(run.folder), "all_s": time.perf_counter() - begin}
    pictures = render_glb(run.folder.export / "mesh_shaded.glb", subject.views.cameras)
    (looks,) = measured([pictures], subject.views, task.setting.judges(subject))
    mesh = read_mesh(run.folder.export / "mesh.glb")
    strip = task.strip(strips, subject, "mesh", pictures[0])
    return [{"row": "mesh", **looks, **shape_of(mesh, subject.truth), **cost, "strip": strip}]


def shape_of(mesh: Mesh, truth: Truth) -> Row:
    """Measures of a mesh in the run's world, and with the true box's longest side as `by_box`; none without truth."""
    if truth.mesh is None:
        return {}
    return {**compare_mesh(mesh, truth), "by_box": compare_mesh(mesh, truth, scale_by_box=True)}


def save_strip(path: Path, images: Tensor) -> None:
    """Images [N, H, W, 3] side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, grid([list(fit(images, CELL))]))
