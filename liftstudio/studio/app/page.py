"""The page: its fields, and what happens when they change. Everything that is long is done by the queue."""

import contextlib
import functools
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.data.images import load_image
from liftstudio.run.jobs import Mode
from liftstudio.run.names import INPUTS
from liftstudio.studio.app import fragments, history, uploads
from liftstudio.studio.app.cut_outs import (
    EDITED,
    KEEP,
    REMOVE,
    CutOut,
    cut_out,
    is_ready,
    painted,
    reduced,
    under_brush,
)  # fmt: skip
from liftstudio.studio.app.methods import method, method_names
from liftstudio.studio.app.orbit import draw_orbit
from liftstudio.studio.app.orders import LABELS, box_of, options_of, order_of, submit
from liftstudio.studio.queue import Progress, Queue

FIELDS = ("method", "box", "prompt", "elevation", "estimate", "seed", "options")  # of an order, as they are on the page
GETTING_READY = "; for the first one after an installation kernels are compiled, which takes up to a minute"
OPEN = "liftstudio"  # a key where there is nothing to hide: names of runs and files
LOOK_EVERY_S = 1.0  # seconds between looks at the run that is shown
CLEANED_S = (3600, 86400)  # how often gradio deletes its files, and how old those are then
SEEDS = 2**31  # of the button that draws one
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
STYLE = Path(__file__).with_name("style.css")
Update = dict[Any, Any]  # component -> its new value or properties


class Page:
    """The page of a queue. Its methods handle events; each returns the new values of the components that change."""

    def __init__(self, queue: Queue) -> None:
        """Lay out the page."""
        self.queue, self.inputs, self.scratch = queue, queue.runs_dir / INPUTS, queue.runs_dir / uploads.SCRATCH
        with gr.Blocks(
            title="liftstudio", analytics_enabled=False, fill_width=True, delete_cache=CLEANED_S
        ) as self.blocks:
            self.shown = gr.BrowserState("", storage_key="liftstudio-run", secret=OPEN)
            self.kept = gr.BrowserState(
                [], storage_key="liftstudio-picture", secret=OPEN
            )  # its file, the corrected one's
            self.picture, self.cut, self.corrected = gr.State(None), gr.State(None), gr.State(None)
            self.framed = gr.State("")  # address of the object's picture in the drawing of the cameras
            self.others = {label: gr.State(None) for label in LABELS}
            self.capture, self.status_seen, self.result_seen = gr.State(None), gr.State(""), gr.State("")
            gr.HTML('<header class="ls-title"><h1>liftstudio</h1><p>a picture in, a textured mesh out</p></header>')
            with gr.Tabs() as self.tabs:
                with gr.Tab("Studio", id="studio"), gr.Row(equal_height=False):
                    with gr.Column(scale=2, min_width=320):
                        self._lay_out_input()
                    with gr.Column(scale=3, min_width=320):
                        self._lay_out_run()
                with gr.Tab("History", id="history") as self.history_tab:
                    self._lay_out_history()
            self.timer = gr.Timer(LOOK_EVERY_S)
            self._connect()  # in the same block: each time one is left, gradio builds a server

    def _lay_out_input(self) -> None:
        names = method_names()
        first = method(names[0])
        self.upload = gr.Image(
            label="Picture of one object", sources=["upload", "clipboard"], type="filepath", height=260, buttons=[],
            elem_id="picture", visible="image" in first.takes,
        )  # fmt: skip
        self.zip = gr.File(
            label="Zip of posed photographs: transforms.json or a COLMAP model, with its images",
            file_types=[".zip"], elem_id="capture", visible="data" in first.takes,
        )  # fmt: skip
        self.problem = gr.HTML(elem_id="problem")
        self.cut_box = gr.HTML(elem_id="cut-out")
        self.prompt = gr.Textbox(
            label="Prompt (empty: the config's own)", elem_id="prompt", visible="prompt" in first.takes
        )
        self.method = gr.Dropdown(names, value=names[0], label="Method", elem_id="method")
        self.about = gr.HTML(fragments.about(first.about), elem_id="about")
        self.orbit = gr.HTML(elem_id="orbit")
        with gr.Row():
            with gr.Column(scale=2, min_width=180):
                self.elevation = gr.Slider(
                    -89, 89, value=0, step=0.5, label="Elevation, degrees", elem_id="elevation", buttons=[]
                )
                self.estimate = gr.Checkbox(True, label="Estimate it", container=False, elem_id="estimate")
            with gr.Column(scale=1, min_width=100):
                self.seed = gr.Number(0, label="Seed", precision=None, elem_id="seed", min_width=90)
                self.reroll = gr.Button("New seed", size="sm", min_width=90)
        with gr.Row(elem_id="go"):
            self.preview_button = gr.Button("Preview", elem_id="do-preview", min_width=80)
            self.views_button = gr.Button("Views", elem_id="do-views", min_width=80)
            self.lift_button = gr.Button("Lift", variant="primary", elem_id="do-lift", min_width=80)
        with gr.Accordion(
            "Box and brush: correct the cut-out", open=False, elem_id="correct", visible="image" in first.takes
        ) as self.brush_panel:
            self.box = gr.Textbox(label="Box of the object in pixels: left, top, right, bottom", elem_id="box")
            gr.HTML(fragments.note("Brush: green where the object is, red where it is not."))
            self.editor = gr.ImageEditor(
                show_label=False, sources=[], transforms=[], layers=False, buttons=[],
                brush=gr.Brush(default_size=24, colors=[KEEP, REMOVE], default_color=KEEP, color_mode="fixed"),
                canvas_size=(EDITED, EDITED), elem_id="brush",
            )  # fmt: skip
            self.apply = gr.Button("Use the painted cut-out", elem_id="apply")
        self.others_panel = gr.Accordion(
            "More pictures of the same object", open=False, elem_id="more", visible="images" in first.takes
        )
        with self.others_panel, gr.Row():
            self.other_uploads = {
                label: gr.Image(
                    label=label, sources=["upload"], type="filepath", height=120, min_width=120, buttons=[],
                    elem_id=f"picture-{label}",
                )
                for label in LABELS
            }  # fmt: skip
        with gr.Accordion("Options", open=False, elem_id="options-panel"):
            self.options = gr.Textbox(
                label="Options of the config, a line each; they come last", placeholder="test.frames=30", lines=3,
                elem_id="options",
            )  # fmt: skip
            self.text = gr.Code(first.text, language="yaml", label="The config", interactive=False, max_lines=16)

    def _lay_out_run(self) -> None:
        self.status = gr.HTML(elem_id="status")
        with gr.Row():
            self.stop_button = gr.Button("Stop", interactive=False, elem_id="stop", min_width=80)
            self.resume_button = gr.Button("Resume", interactive=False, elem_id="resume", min_width=80)
        self.model = gr.HTML(elem_id="mesh")
        self.result = gr.HTML(elem_id="result")

    def _lay_out_history(self) -> None:
        with gr.Row():
            self.open_button = gr.Button("Open in the studio", min_width=120, elem_id="open")
            self.refresh = gr.Button("Refresh", min_width=90)
        self.list = gr.CheckboxGroup(
            [], label="Runs, newest first; choose one to see it, two to compare", elem_id="runs"
        )
        self.list_problem = gr.HTML()
        self.sides = []
        with gr.Row(equal_height=False):
            for side in ("left", "right"):
                with gr.Column(min_width=300):
                    title = gr.HTML(elem_id=f"{side}-title")
                    model = gr.HTML(elem_id=f"{side}-mesh")
                    self.sides.append((title, model, gr.HTML(elem_id=f"{side}-result")))

    def _connect(self) -> None:
        files = [self.picture, self.corrected, self.cut, self.framed, self.kept]
        taken = [*files, self.cut_box, self.upload, self.editor]
        shown = [self.framed, self.cut_box, self.elevation]
        object_of = [self.picture, self.corrected, self.box]
        for event in (
            self._on(self.upload.upload, self.take, [self.upload], taken),
            self._on(self.box.submit, lambda: {self.corrected: None, self.cut: None}, None, [self.corrected, self.cut]),
            self._on(self.blocks.load, self.find_picture, self.kept, taken, **QUIET),
        ):
            self._on(event.then, self.show_object, object_of, shown, **QUIET)
        self._on(self.upload.clear, self.forget, None, taken, **QUIET)
        self._on(self.brush_panel.expand, self.edit, [self.picture, self.cut, self.box], [self.cut, self.editor])
        self._on(
            self.apply.click, self.paint, [self.picture, self.cut, self.editor], [*files, *shown],
            show_progress_on=self.upload,
        )  # fmt: skip
        for label, other in self.other_uploads.items():
            self._on(other.upload, self.take_other, [other, gr.State(label)], [self.others[label], other])
            self._on(other.clear, lambda: None, None, self.others[label], **QUIET)
        self._on(self.zip.upload, self.take_capture, self.zip, [self.capture, self.cut_box, self.zip])
        self._on(self.zip.clear, lambda: (None, ""), None, [self.capture, self.cut_box], **QUIET)
        chosen = [self.about, self.text, self.upload, self.zip, self.cut_box, self.prompt, self.elevation]
        chosen += [self.estimate, self.brush_panel, self.others_panel]
        self._on(self.method.change, self.choose, self.method, chosen, **QUIET)
        for trigger in (self.framed.change, self.elevation.change, self.method.change, self.options.blur):
            self._on(
                trigger, self.draw, [self.method, self.elevation, self.framed, self.options], self.orbit,
                trigger_mode="always_last", **QUIET,
            )  # fmt: skip
        self._on(self.elevation.release, lambda: False, None, self.estimate, **QUIET)
        self._on(self.reroll.click, lambda: secrets.randbelow(SEEDS), None, self.seed, **QUIET)
        fields = [
            self.picture, self.corrected, self.framed, self.capture, self.method, self.box, self.prompt,
            self.elevation, self.estimate, self.seed, self.options, *self.others.values(),
        ]  # fmt: skip
        run = [self.shown, self.status_seen, self.result_seen, self.status, self.stop_button, self.resume_button]
        run += [self.model, self.result]
        for button, mode in (
            (self.preview_button, "preview"),
            (self.views_button, "views"),
            (self.lift_button, "train"),
        ):
            self._on(button.click, self.start, [gr.State(mode), *fields], run, **QUIET)
        self._on(self.stop_button.click, self.stop, self.shown, run, **QUIET)
        self._on(self.resume_button.click, self.resume, self.shown, run, **QUIET)
        seen = [self.shown, self.status_seen, self.result_seen]
        self._on(self.timer.tick, self.look, seen, run, concurrency_limit=None, **QUIET)
        self._on(self.blocks.load, self.find_again, self.shown, run, **QUIET)
        compared = [component for side in self.sides for component in side]
        self._on(self.list.change, self.compare, self.list, compared, problem=self.list_problem, **QUIET)
        for trigger in (self.history_tab.select, self.refresh.click, self.blocks.load):
            self._on(trigger, self.list_runs, None, self.list, problem=self.list_problem, **QUIET)
        opened = [*run, self.tabs]
        self._on(self.open_button.click, self.open, self.list, opened, problem=self.list_problem, **QUIET)

    def _on(
        self,
        trigger: Any,
        handler: Callable[..., Any],
        inputs: Any,
        outputs: Any,
        *,
        problem: Any = None,
        **options: Any,
    ) -> Any:
        """Let an event call a handler with what the browser sent, whatever it is; its errors are shown as `problem`."""
        place = problem or self.problem
        listed = list(outputs) if isinstance(outputs, list) else [outputs]

        @functools.wraps(handler)
        def handle(*sent: Any) -> Update:
            try:
                made = handler(*sent)
            except InputError as error:
                return {place: fragments.error_box(str(error))}
            except Exception as error:  # a bug; its details are for the terminal
                log.exception("page: %s", handler.__name__)
                return {place: fragments.error_box(f"the page has a fault ({type(error).__name__}); please report it")}
            if isinstance(made, dict):
                return made
            return dict(zip(listed, made if isinstance(made, tuple) else (made,), strict=True))

        options = {"api_visibility": "private", "preprocess": False, **options}
        return trigger(handle, inputs, [*listed, *([] if place in listed else [place])], **options)

    def take(self, payload: Any) -> Update:
        """Keep an uploaded picture; payload: names the file in gradio's folder."""
        try:
            picture = self._kept(payload)
        except InputError as error:
            return {**self.forget(), self.problem: fragments.error_box(str(error))}
        return self._taken(picture)

    def find_picture(self, kept: Any) -> Update:
        """Show the picture again that this browser had, after the page was loaded."""
        names = [str(name) for name in kept] if isinstance(kept, list) else []
        found = [uploads.kept_picture(name, self.inputs) for name in names]
        if not found or found[0] is None:
            return {self.kept: gr.skip()}  # a quick visitor may have dropped a picture meanwhile
        corrected = found[1] if len(found) > 1 else None
        return {**self._taken(found[0]), self.corrected: corrected, self.cut: corrected, self.kept: names}

    def _taken(self, picture: Path) -> Update:
        """Show a picture, whose object is yet to be found."""
        nothing = {self.cut: None, self.corrected: None, self.editor: None, self.framed: None, self.problem: ""}
        note = fragments.note(f"looking for the object{'' if is_ready() else GETTING_READY} ...")
        return {
            **nothing,
            self.picture: picture,
            self.kept: [picture.name],
            self.upload: reduced(picture),
            self.cut_box: note,
        }

    def show_object(self, picture: Path | None, corrected: Path | None, box: Any) -> Update:
        """Cut out the object in the picture, or take the corrected one, and show it."""
        if picture is None:
            return {self.framed: gr.skip()}
        try:
            cut = cut_out(corrected or picture, None if corrected else box_of(box))
        except InputError as error:
            return {self.framed: "", self.cut_box: "", self.problem: fragments.error_box(str(error))}
        return {**self._shown(cut), self.problem: ""}

    def take_other(self, payload: Any, label: str) -> Update:
        """Keep a further picture."""
        component = self.other_uploads[label]
        try:
            picture = self._kept(payload)
        except InputError as error:
            return {self.others[label]: None, component: None, self.problem: fragments.error_box(f"{label}: {error}")}
        return {self.others[label]: picture, component: reduced(picture), self.problem: ""}

    def take_capture(self, payload: Any) -> Update:
        """Keep the posed photographs in an uploaded zip."""
        try:
            folder = uploads.keep_capture(self._uploaded(payload), self.inputs)
        except InputError as error:
            return {self.capture: None, self.problem: fragments.error_box(str(error)), self.cut_box: "", self.zip: None}
        return {self.capture: folder, self.problem: "", self.cut_box: fragments.note("the photographs are there")}

    def forget(self) -> Update:
        """Return the page to a state without a picture."""
        cleared = {self.picture: None, self.cut: None, self.corrected: None, self.upload: None, self.editor: None}
        return {**cleared, self.kept: [], self.framed: "", self.cut_box: "", self.problem: ""}

    def edit(self, picture: Path | None, cut: Path | None, box: Any) -> Update:
        """Put the picture under the brush, faded where the object is not."""
        if picture is None:
            raise InputError("drop a picture first")
        if cut is None:
            with contextlib.suppress(InputError):  # as the page has said; then all of the object is painted
                found = cut_out(picture, box_of(box))
                cut = uploads.keep_pixels(found.rgb, found.alpha, self.inputs)
        alpha = load_image(cut)[1] if cut else None
        return {
            self.cut: cut,
            self.editor: {"background": under_brush(picture, alpha), "layers": [], "composite": None},
        }

    def paint(self, picture: Path | None, cut: Path | None, payload: Any) -> Update:
        """Correct the cut-out by the strokes of the brush; the corrected picture becomes the input."""
        if picture is None:
            raise InputError("drop a picture first")
        corrected = uploads.keep_pixels(*painted(picture, cut, self._strokes(payload)), self.inputs)
        found = cut_out(corrected)
        names = [picture.name, corrected.name]
        return {
            self.cut: corrected,
            self.corrected: corrected,
            self.kept: names,
            **self._shown(found),
            self.problem: "",
        }

    def choose(self, name: Any) -> Update:
        """Show what a method does and takes."""
        chosen = method(name)
        return {
            self.about: fragments.about(chosen.about),
            self.text: chosen.text,
            self.upload: gr.update(visible="image" in chosen.takes),
            self.zip: gr.update(visible="data" in chosen.takes),
            self.cut_box: gr.update(visible=bool({"image", "data"} & chosen.takes)),
            self.prompt: gr.update(visible="prompt" in chosen.takes),
            self.elevation: gr.update(visible="image" in chosen.takes),
            self.estimate: gr.update(visible="image" in chosen.takes),
            self.brush_panel: gr.update(visible="image" in chosen.takes),
            self.others_panel: gr.update(visible="images" in chosen.takes),
        }

    def draw(self, name: Any, elevation: Any, framed: str | None, options: Any) -> Update:
        """Draw the cameras around the object, if there is one."""
        if not framed or "image" not in method(name).takes:
            return {self.orbit: ""}
        try:
            order = order_of({"method": name, "elevation": elevation, "estimate": False, "options": options})
            return {self.orbit: draw_orbit(name, options_of(order.options), order.elevation, framed)}
        except InputError as error:
            return {self.orbit: fragments.warning(str(error))}

    def start(
        self, mode: Mode, picture: Path | None, corrected: Path | None, framed: str | None, capture: Path | None,
        *sent: Any,
    ) -> Update:  # fmt: skip
        """Add a job to the queue and show it; sent: the values of FIELDS, then the further pictures."""
        fields, others = sent[: len(FIELDS)], sent[len(FIELDS) :]
        pictures = {label: path for label, path in zip(LABELS, others, strict=True) if path is not None}
        order = order_of(dict(zip(FIELDS, fields, strict=True)))
        order = replace(order, picture=corrected or picture, others=pictures, capture=capture)
        if order.picture is not None and framed == "" and "image" in method(order.method).takes:
            raise InputError(
                "the object is not cut out yet: give its box, or paint it with the brush, under Box and brush"
            )
        entry = submit(self.queue, replace(order, box="" if corrected else order.box), mode)
        return {**self.look(entry.name, "", ""), self.shown: entry.name, self.problem: ""}

    def stop(self, key: Any) -> Update:
        """Stop the shown run."""
        seen = history.find(self.queue, key)
        if seen.entry is not None:
            self.queue.stop(seen.entry.name)
        return {**self.look(key, "", ""), self.stop_button: gr.update(interactive=False)}

    def resume(self, key: Any) -> Update:
        """Let the shown run go on."""
        entry = self._resumed(history.find(self.queue, key))
        return {**self.look(entry.name, "", ""), self.shown: entry.name, self.problem: ""}

    def look(self, key: Any, status_seen: str, result_seen: str) -> Update:
        """Return what has changed about the shown run."""
        try:
            seen = history.find(self.queue, key) if key else None
        except InputError:
            return {**self.look("", status_seen, result_seen), self.shown: ""}
        entry, runs_dir = (seen.entry, self.queue.runs_dir) if seen else (None, self.queue.runs_dir)
        name = entry.name if entry else ""
        ahead = self.queue.ahead(name)
        update: Update = {}
        status = f"{key} {seen.state if seen else ''} {self.queue.progress(name).version} {ahead}"
        if status != status_seen:
            is_open = entry is not None and entry.is_open
            update |= {
                self.status_seen: status,
                self.status: self._status(seen),
                self.stop_button: gr.update(interactive=is_open),
                self.resume_button: gr.update(interactive=seen is not None and not is_open and _can_go_on(seen)),
            }
        made = f"{key} {_stamp(seen)}"
        if made != result_seen:
            folder = seen.folder if seen else None
            update |= {
                self.result_seen: made,
                self.result: fragments.result(runs_dir, folder),
                self.model: fragments.scene(runs_dir, folder),
            }
        return update or {self.result: gr.skip()}  # gradio takes no empty ones

    def find_again(self, key: Any) -> Update:
        """Show the run that this browser saw last, else the one that is being done, after the page was loaded."""
        running = next((entry.name for entry in self.queue.entries() if entry.is_open), "")
        try:
            found = history.find(self.queue, key).key if key else running
        except InputError:
            found = running
        return {**self.look(found, "", ""), self.shown: found}

    def list_runs(self) -> Update:
        """List all runs."""
        return {self.list: gr.update(choices=[(run.title, run.key) for run in history.runs(self.queue)])}

    def compare(self, keys: Any) -> Update:
        """Show the chosen runs beside each other, at most as many as there are sides."""
        keys = _chosen(keys)
        if len(keys) > len(self.sides):
            raise InputError("two runs are compared at most; take one off")
        update: Update = {self.list_problem: ""}
        for (title, model, result), key in zip(self.sides, [*keys, "", ""], strict=False):
            seen = history.find(self.queue, key) if key else None
            update[title] = self._status(seen) if seen else ""
            update[model] = fragments.scene(self.queue.runs_dir, seen.folder) if seen else ""
            update[result] = fragments.result(self.queue.runs_dir, seen.folder) if seen else ""
        return update

    def open(self, keys: Any) -> Update:
        """Show the chosen run in the studio, where it can be stopped and resumed."""
        keys = _chosen(keys)
        if len(keys) != 1:
            raise InputError("choose one run to open")
        return {
            self.list_problem: "",
            **self.look(keys[0], "", ""),
            self.shown: keys[0],
            self.tabs: gr.update(selected="studio"),
        }

    def _status(self, seen: history.Seen | None) -> str:
        """Return how far a run is."""
        if seen is None:
            return fragments.status(None, Progress(), 0)
        ahead = self.queue.ahead(seen.entry.name) if seen.entry else 0
        return fragments.status(seen, history.progress(self.queue, seen), ahead)

    def _kept(self, payload: Any) -> Path:
        # gradio's file stays for a while: visitors who send the same picture share it
        return uploads.keep_picture(self._uploaded(payload), self.inputs)

    def _strokes(self, payload: Any) -> Tensor:
        """Return the strokes of the brush, [h, w, 4], which the editor uploads as its only layer."""
        layers = payload.get("layers") if isinstance(payload, dict) else None
        if not isinstance(layers, list) or not layers or layers[0] is None:
            raise InputError("paint first: green where the object is, red where it is not")
        return uploads.read_pixels(self._uploaded(layers[0]))

    def _uploaded(self, payload: Any) -> Path:
        """Return the file that a component names, if it is one of gradio's own; gradio does not check all of them."""
        path = payload.get("path") if isinstance(payload, dict) else None
        if not isinstance(path, str) or not Path(path).resolve().is_relative_to(self.scratch.resolve()):
            raise InputError("no file")
        return Path(path)

    def _shown(self, cut: CutOut) -> Update:
        """Show the object that was cut out; the cameras around it are drawn when `framed` changes."""
        return {
            self.framed: fragments.object_in_orbit(cut),
            self.cut_box: fragments.cut_out_box(cut),
            self.elevation: cut.elevation.elevation_deg,
        }

    def _resumed(self, seen: history.Seen) -> Any:
        if seen.entry is not None:
            return self.queue.resume(seen.entry.name)
        assert seen.folder is not None, "a run without a job has a folder"
        return self.queue.resume_run(seen.folder.path)


def _chosen(keys: Any) -> list[Any]:
    return keys if isinstance(keys, list) else []


def _can_go_on(seen: history.Seen) -> bool:
    """Return whether there is something left to do, and nobody does it: all but what ended with a mesh."""
    return seen.state != "in work" and (seen.folder is None or not seen.folder.has_mesh)


def _stamp(seen: history.Seen | None) -> str:
    """Return a text that changes when the run has made something new."""
    if seen is None or seen.folder is None:
        return ""
    names = ("preview.glb", "views/contact_sheet.png", "test/turntable.mp4", "export/report.json", "report.html")
    paths = [seen.folder.path / name for name in names]
    return " ".join(str(path.stat().st_mtime_ns) if path.is_file() else "-" for path in paths)
