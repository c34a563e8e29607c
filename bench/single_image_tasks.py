"""Tasks of `bench.single_image` on one object: views of a prior, the mesh of a run, or a baseline."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.baselines import inflated, mean_mesh, mean_pictures, repeated
from bench.captures import Subject, name_of, read_subject, sides
from bench.prior_views import ask, fit, measure_prior, measured
from bench.runs import Row, config_path, cost_of, in_own_process, render_glb, run_all
from liftstudio.core import registry
from liftstudio.core.cache import content_key
from liftstudio.core.config import to_plain
from liftstudio.core.devices import first_device
from liftstudio.core.errors import InputError
from liftstudio.data.images import grid, save_image
from liftstudio.data.mesh import Mesh
from liftstudio.data.mesh_io import read_mesh
from liftstudio.metrics.embeddings import object_prompt
from liftstudio.metrics.flow import check_raft_size
from liftstudio.metrics.novel_views import PIXELS, Judges
from liftstudio.priors.opening import resolve
from liftstudio.renderers.textured import Pictures
from liftstudio.run.config import RunConfig, load_run_config
from liftstudio.run.evaluation import load_judges
from liftstudio.run.run import load_inputs
from liftstudio.run.truth import Truth, compare_mesh

BASELINES = ("repeated", "inflate", "mean", "toys")
CAMERA = ("elevation_deg", "distance", "fov_deg")  # options of views that describe the input camera
OWN = {  # options that the benchmark sets itself
    *("image", "images", "views.image", "views.images", "views.recenter", *(f"views.{name}" for name in CAMERA)),
    *("runs_dir", "tag", "export.formats", "export.shaded"),
}
BUNDLED = {"prior.type": "auto", "prior.weights": "asset://priors/toys"}
CELL = 128  # width and height in pixels of a view on the sheet


@dataclass(frozen=True)
class Setting:
    """What all objects have in common: config, overrides, and how the input view is given."""

    config: str = "sv3d-masked-sds"
    overrides: tuple[str, ...] = ()
    view: str = ""
    estimate_elevation: bool = False
    sides: tuple[str, ...] = ()

    def bundled(self) -> "Setting":
        """Return the same setting with the bundled prior `toys`, whatever prior the user names."""
        others = (word for word in self.overrides if word.partition("=")[0] not in BUNDLED)
        return replace(self, overrides=(*others, *(f"{key}={value}" for key, value in BUNDLED.items())))

    @property
    def name(self) -> str:
        """Name in tables: the config, its weights, and the sides of further input views."""
        weights = Path(self._views.prior.options.weights)
        return ", ".join([Path(self.config).stem, "/".join(weights.parts[-2:]), *(f"+ {side}" for side in self.sides)])

    def load(self, *options: str) -> RunConfig:
        """Load the config with the user's overrides, followed by `options`."""
        return load_run_config(config_path(self.config), [*self.overrides, *options])

    @cached_property
    def without_picture(self) -> RunConfig:
        """The config before it is given a capture."""
        return self.load("image=none")

    def check(self) -> None:
        """Check the setting before any long work.

        Raises:
            InputError: an override is one that the benchmark sets itself; the config does not take an input image, has
                no options for its camera, or cannot estimate the elevation though requested.
        """
        for word in self.overrides:
            if word.partition("=")[0] in OWN:
                raise InputError(f"'{word}': the benchmark sets this option itself; leave it out")
        views = self.without_picture.views
        needed = ("image", "images") if self.sides else ("image",)
        for name in (*needed, "recenter", *CAMERA):
            if views is None or not hasattr(views.options, name):
                problem = f"{self.config}: its views have no option '{name}'"
                raise InputError(f"{problem}; expected a config that takes one image and its camera")
        if self.estimate_elevation:
            try:
                self.load("image=none", "views.elevation_deg=auto")
            except InputError:
                raise InputError(f"--estimate-elevation: {self.config} does not estimate it; leave it out") from None

    def of(self, subject: Subject, *options: str) -> RunConfig:
        """Return the config for the subject's input camera; options: those that name its images, and further ones."""
        camera = {name: str(getattr(subject.camera, name)) for name in CAMERA}
        if self.estimate_elevation:
            camera["elevation_deg"] = "auto"
        known = (f"views.{name}={value}" for name, value in camera.items())
        return self.load("views.recenter=false", *known, *options)

    def read(self, capture: Path) -> Subject:
        """Read a capture, with its input view at the azimuth that the config gives to input images.

        Raises:
            InputError: see `read_subject`; or the views are too small for RAFT and the config uses it.
        """
        subject = read_subject(capture, self.view, getattr(self._views, "azimuth_deg", 0.0), self.sides)
        if self.without_picture.test.raft_weights:
            side = min(PIXELS, subject.views.cameras.width)
            check_raft_size(side, side)
        return subject

    @cached_property
    def weights(self) -> dict[str, Any]:
        """Fingerprint of the prior's weights."""
        return resolve(self._views.prior).fingerprint()

    def judges(self) -> Judges:
        """Load the judges that the config selects for views, without a text for the object.

        Raises:
            InputError: see `load_judges`.
        """
        config = self.without_picture
        return load_judges(config.test, None, first_device(config.device, None))

    @property
    def _views(self) -> Any:
        assert self.without_picture.views is not None
        return self.without_picture.views.options


@dataclass(frozen=True)
class Task:
    """One kind of measurement on one object; others: the captures to average for the mean object, else empty."""

    kind: str
    setting: Setting
    capture: Path
    others: tuple[Path, ...] = ()

    def key(self, digest_of: Callable[[Path], str]) -> Row:
        """Return the key of its rows: readable names, and a digest of everything that determines the result."""
        setting, config = self.setting, self.setting.without_picture
        key: Row = {
            "object": name_of(self.capture),
            "kind": self.kind,
            "view": setting.view,
            "sides": list(setting.sides),
        }
        if self.kind in ("views", "mesh"):
            key |= {"config": setting.config, "overrides": list(setting.overrides)}
            key |= {"estimate_elevation": setting.estimate_elevation}
            decided = {"config": to_plain(replace(config, tag="")), "weights": setting.weights}
        else:
            key |= {"others": [name_of(other) for other in self.others]}
            decided = {"test": to_plain(config.test), "others": [digest_of(other) for other in self.others]}
        return {**key, "digest": content_key({**decided, "capture": digest_of(self.capture)})}

    def method(self, row: Row) -> str:
        """Return the name of a row's method in tables."""
        if self.kind not in ("views", "mesh"):
            return {"repeated": "input repeated", "inflate": "silhouette inflated", "mean": "mean object"}[self.kind]
        return f"{self.setting.name}: {row['row']}"

    def measure(self, judges: Judges, folder: Path, strips: Path) -> list[Row]:
        """Measure, and return the rows.

        Args:
            judges: of views.
            folder: for temporary files and runs.
            strips: path prefix of the image strips for the sheet.
        """
        if self.kind == "mesh":
            fresh = replace(self, setting=replace(self.setting))  # without cached properties, which cannot be pickled
            return in_own_process(reconstruct, fresh, folder, strips)
        subject = self.setting.read(self.capture)
        judges = judges_of(subject, judges)
        if self.kind == "views":
            return self._prior_views(subject, judges, folder, strips)
        make: dict[str, Callable[[Subject], tuple[Mesh | None, Pictures | None]]] = {
            "repeated": lambda subject: (None, repeated(subject.views)),
            "inflate": inflated,
            "mean": self._mean,
        }
        begin = time.perf_counter()
        mesh, pictures = make[self.kind](subject)
        row: Row = {"row": self.kind, "views_s": time.perf_counter() - begin}
        looks: list[Row] = [{"pixels": min(PIXELS, subject.views.cameras.width)}]
        if pictures is not None:
            row["strip"] = save_strip(strips, self.kind, subject, pictures[0])
            looks = measured([pictures], subject.views, judges, small=True)
        if mesh is not None:
            looks[-1] |= shape_of(mesh, subject.truth)
        return [{**row, **look} for look in looks]

    def _prior_views(self, subject: Subject, judges: Judges, folder: Path, strips: Path) -> list[Row]:
        config = self.setting.of(subject, *subject.save_pictures(folder))
        assert config.views is not None
        asked = ask(config.views, subject, first_device(config.device, None))
        rows, pictures = measure_prior(asked, subject, judges)
        paths = {name: save_strip(strips, name, subject, images) for name, (images, _) in pictures.items()}
        return [{**row, "strip": paths[row["row"]]} for row in rows]

    def _mean(self, subject: Subject) -> tuple[Mesh | None, Pictures | None]:
        others = [self.setting.read(other) for other in self.others]
        return mean_mesh(subject, others), mean_pictures(subject, others)


def reconstruct(task: Task, folder: Path, strips: Path) -> list[Row]:
    """Run the task's config from image to mesh and return its row. See `Task.measure`."""
    begin = time.perf_counter()
    registry.load_methods()
    subject = task.setting.read(task.capture)
    folder.mkdir(parents=True, exist_ok=True)
    config = task.setting.of(
        subject,
        *subject.save_pictures(folder),
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
    (looks,) = measured([pictures], subject.views, judges_of(subject, task.setting.judges()))
    mesh = read_mesh(run.folder.export / "mesh.glb")
    strip = save_strip(strips, "mesh", subject, pictures[0])
    return [{"row": "mesh", **looks, **shape_of(mesh, subject.truth), **cost, "strip": strip}]


def judges_of(subject: Subject, judges: Judges) -> Judges:
    """Return the judges with a text for the object."""
    return replace(judges, text=object_prompt(subject.name))


def shape_of(mesh: Mesh, truth: Truth) -> Row:
    """Return shape metrics of a mesh in the run's world; `by_box`: scaled to the true box. Empty without true mesh."""
    if truth.mesh is None:
        return {}
    return {**compare_mesh(mesh, truth), "by_box": compare_mesh(mesh, truth, scale_by_box=True)}


def save_strip(strips: Path, name: str, subject: Subject, images: Tensor) -> str:
    """Write some of the views [V, H, W, 3] side by side as a PNG with path prefix `strips`; return its path."""
    path = strips.with_name(f"{strips.name}-{name.replace(' ', '-')}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, grid([list(fit(images[sides(subject.views)], CELL))]))
    return str(path)
