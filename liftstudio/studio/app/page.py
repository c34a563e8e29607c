"""The page: its fields, and what happens when they change. Everything that is long is done by the queue."""

import html
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.images import load_image
from liftstudio.run.jobs import Mode
from liftstudio.run.names import INPUTS
from liftstudio.studio.app import fragments, history, uploads
from liftstudio.studio.app.cut_outs import EDITED, KEEP, REMOVE, CutOut, cut_out, painted, reduced, under_brush
from liftstudio.studio.app.methods import method, method_names
from liftstudio.studio.app.orbit import draw_orbit
from liftstudio.studio.app.orders import LABELS, Order, box_of, options_of, submit
from liftstudio.studio.queue import Queue

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
            self.shown = gr.BrowserState(
                "", storage_key="liftstudio-run", secret="liftstudio"
            )  # no secret: a run's name
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
        self.about = gr.HTML(_about(first.about), elem_id="about")
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
            gr.HTML(_note("Brush: green where the object is, red where it is not."))
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
        cut = [
            self.picture,
            self.cut,
            self.corrected,
            self.framed,
            self.cut_box,
            self.problem,
            self.elevation,
            self.upload,
            self.editor,
        ]
        private: dict[str, Any] = {"api_visibility": "private"}
        raw = {"preprocess": False, **private}
        self.upload.upload(self.take, [self.upload, self.box], cut, **raw, show_progress_on=self.upload)
        self.upload.clear(self.forget, None, cut, **QUIET)
        self.box.submit(self.cut_again, [self.picture, self.box], cut, **private, show_progress_on=self.upload)
        self.brush_panel.expand(
            self.edit, [self.picture, self.cut, self.box], [self.cut, self.editor, self.problem], **private
        )
        self.apply.click(self.paint, [self.picture, self.cut, self.editor], cut, **raw, show_progress_on=self.upload)
        for label, other in self.other_uploads.items():
            outputs = [self.others[label], self.problem, other]
            other.upload(self.take_other, [other, gr.State(label)], outputs, **raw)
            other.clear(lambda: None, None, self.others[label], **QUIET)
        self.zip.upload(self.take_capture, self.zip, [self.capture, self.problem, self.cut_box, self.zip], **raw)
        self.zip.clear(lambda: (None, ""), None, [self.capture, self.cut_box], **QUIET)
        chosen = [self.about, self.text, self.upload, self.zip, self.cut_box, self.prompt, self.elevation]
        chosen += [self.estimate, self.brush_panel, self.others_panel]
        self.method.change(self.choose, self.method, chosen, **QUIET)
        gr.on(
            [self.framed.change, self.elevation.change, self.method.change, self.options.blur],
            self.draw, [self.method, self.elevation, self.framed, self.options], self.orbit,
            trigger_mode="always_last", **QUIET,
        )  # fmt: skip
        self.elevation.release(lambda: False, None, self.estimate, **QUIET)
        self.reroll.click(lambda: secrets.randbelow(SEEDS), None, self.seed, **QUIET)
        fields = [
            self.method, self.picture, self.corrected, self.capture, self.box, self.prompt, self.elevation,
            self.estimate, self.seed, self.options, *self.others.values(),
        ]  # fmt: skip
        run = [self.shown, self.status_seen, self.result_seen, self.status, self.stop_button, self.resume_button]
        run += [self.model, self.result, self.problem]
        for button, mode in (
            (self.preview_button, "preview"),
            (self.views_button, "views"),
            (self.lift_button, "train"),
        ):
            button.click(self.start, [gr.State(mode), *fields], run, **QUIET)
        self.stop_button.click(self.stop, self.shown, run, **QUIET)
        self.resume_button.click(self.resume, self.shown, run, **QUIET)
        seen = [self.shown, self.status_seen, self.result_seen]
        self.timer.tick(self.look, seen, run, concurrency_limit=None, **QUIET)
        self.blocks.load(self.find_again, self.shown, run, **QUIET)
        compared = [self.list_problem, *(component for side in self.sides for component in side)]
        self.list.change(self.compare, self.list, compared, **QUIET)
        for trigger in (self.history_tab.select, self.refresh.click, self.blocks.load):
            trigger(self.list_runs, None, self.list, **QUIET)
        self.open_button.click(self.open, self.list, [*run, self.tabs, self.list_problem], **QUIET)

    def take(self, payload: Mapping[str, Any] | None, box: str | None) -> Update:
        """Keep an uploaded picture and show its object; payload: names the file in gradio's folder."""
        try:
            picture = self._kept(payload)
        except InputError as error:
            return {**self.forget(), self.problem: fragments.error_box(str(error))}
        return {**self.cut_again(picture, box), self.upload: reduced(picture)}

    def take_other(self, payload: Mapping[str, Any] | None, label: str) -> Update:
        """Keep a further picture."""
        component = self.other_uploads[label]
        try:
            picture = self._kept(payload)
        except InputError as error:
            return {self.others[label]: None, component: None, self.problem: fragments.error_box(f"{label}: {error}")}
        return {self.others[label]: picture, component: reduced(picture), self.problem: ""}

    def take_capture(self, payload: Mapping[str, Any] | None) -> Update:
        """Keep the posed photographs in an uploaded zip."""
        try:
            folder = uploads.keep_capture(self._uploaded(payload), self.inputs)
        except InputError as error:
            return {self.capture: None, self.problem: fragments.error_box(str(error)), self.cut_box: "", self.zip: None}
        return {self.capture: folder, self.problem: "", self.cut_box: "<p>the photographs are there</p>"}

    def forget(self) -> Update:
        """Return the page to a state without a picture."""
        cleared = {self.picture: None, self.cut: None, self.corrected: None, self.upload: None, self.editor: None}
        return {**cleared, self.framed: "", self.cut_box: "", self.problem: ""}

    def cut_again(self, picture: Path | None, box: str | None) -> Update:
        """Cut out the object in the picture and show it."""
        if picture is None:
            return self.forget()
        kept = {self.picture: picture, self.cut: None, self.corrected: None, self.editor: None}
        try:
            cut = cut_out(picture, box_of(box))
        except InputError as error:
            return {**kept, self.framed: "", self.cut_box: "", self.problem: fragments.error_box(str(error))}
        return {**kept, **self._shown(cut), self.problem: ""}

    def edit(self, picture: Path | None, cut: Path | None, box: str | None) -> Update:
        """Put the picture under the brush, faded where the object is not."""
        if picture is None:
            return {self.problem: fragments.error_box("drop a picture first")}
        if cut is None:
            try:
                found = cut_out(picture, box_of(box))
                cut = uploads.keep_pixels(found.rgb, found.alpha, self.inputs)
            except InputError:
                pass  # as the page has said; then all of the object is painted
        alpha = load_image(cut)[1] if cut else None
        return {
            self.cut: cut,
            self.editor: {"background": under_brush(picture, alpha), "layers": [], "composite": None},
        }

    def paint(self, picture: Path | None, cut: Path | None, payload: Mapping[str, Any] | None) -> Update:
        """Correct the cut-out by the strokes of the brush; the corrected picture becomes the input."""
        try:
            if picture is None:
                raise InputError("drop a picture first")
            corrected = uploads.keep_pixels(*painted(picture, cut, self._strokes(payload)), self.inputs)
            found = cut_out(corrected)
        except InputError as error:
            return {self.problem: fragments.error_box(str(error))}
        return {self.cut: corrected, self.corrected: corrected, **self._shown(found), self.problem: ""}

    def choose(self, name: str) -> Update:
        """Show what a method does and takes."""
        chosen = method(name)
        return {
            self.about: _about(chosen.about),
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

    def draw(self, name: str, elevation_deg: float, framed: str, options: str | None) -> Update:
        """Draw the cameras around the object, if there is one."""
        if not framed or "image" not in method(name).takes:
            return {self.orbit: ""}
        try:
            return {self.orbit: draw_orbit(name, options_of(options or ""), elevation_deg, framed)}
        except InputError as error:
            return {self.orbit: fragments.warning(str(error))}

    def start(
        self, mode: Mode, name: str, picture: Path | None, corrected: Path | None, capture: Path | None,
        box: str | None, prompt: str | None, elevation_deg: float, estimate: bool, seed: float | None,
        options: str | None, *others: Path | None,
    ) -> Update:  # fmt: skip
        """Add a job to the queue and show it."""
        order = Order(
            name,
            corrected or picture,
            {label: path for label, path in zip(LABELS, others, strict=True) if path is not None},
            capture,
            "" if corrected else box or "",
            prompt or "",
            None if estimate else elevation_deg,
            seed,
            options or "",
        )
        try:
            entry = submit(self.queue, order, mode)
        except InputError as error:
            return {self.problem: fragments.error_box(str(error))}
        return {**self.look(entry.name, "", ""), self.shown: entry.name, self.problem: ""}

    def stop(self, key: str) -> Update:
        """Stop the shown run."""
        try:
            seen = history.find(self.queue, key)
            if seen.entry is not None:
                self.queue.stop(seen.entry.name)
        except InputError as error:
            return {self.problem: fragments.error_box(str(error))}
        return {**self.look(key, "", ""), self.stop_button: gr.update(interactive=False)}

    def resume(self, key: str) -> Update:
        """Let the shown run go on."""
        try:
            seen = history.find(self.queue, key)
            entry = self._resumed(seen)
        except InputError as error:
            return {self.problem: fragments.error_box(str(error))}
        return {**self.look(entry.name, "", ""), self.shown: entry.name, self.problem: ""}

    def look(self, key: str, status_seen: str, result_seen: str) -> Update:
        """Return what has changed about the shown run."""
        try:
            seen = history.find(self.queue, key) if key else None
        except InputError:
            return {**self.look("", status_seen, result_seen), self.shown: ""}
        entry, runs_dir = (seen.entry, self.queue.runs_dir) if seen else (None, self.queue.runs_dir)
        name = entry.name if entry else ""
        progress, ahead = self.queue.progress(name), self.queue.ahead(name)
        update: Update = {}
        status = f"{key} {seen.state if seen else ''} {progress.version} {ahead}"
        if status != status_seen:
            is_open = entry is not None and entry.is_open
            update |= {
                self.status_seen: status,
                self.status: fragments.status(seen, progress, ahead),
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

    def find_again(self, key: str) -> Update:
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

    def compare(self, keys: list[str]) -> Update:
        """Show the chosen runs beside each other, at most as many as there are sides."""
        if len(keys) > len(self.sides):
            return {self.list_problem: fragments.error_box("two runs are compared at most; take one off")}
        update: Update = {self.list_problem: ""}
        for (title, model, result), key in zip(self.sides, [*keys, "", ""], strict=False):
            try:
                seen = history.find(self.queue, key) if key else None
            except InputError as error:
                return {self.list_problem: fragments.error_box(str(error))}
            name = seen.entry.name if seen and seen.entry else ""
            update[title] = fragments.status(seen, self.queue.progress(name), self.queue.ahead(name)) if seen else ""
            update[model] = fragments.scene(self.queue.runs_dir, seen.folder) if seen else ""
            update[result] = fragments.result(self.queue.runs_dir, seen.folder) if seen else ""
        return update

    def open(self, keys: list[str]) -> Update:
        """Show the chosen run in the studio, where it can be stopped and resumed."""
        if len(keys) != 1:
            return {self.list_problem: fragments.error_box("choose one run to open")}
        return {**self.look(keys[0], "", ""), self.shown: keys[0], self.tabs: gr.update(selected="studio")}

    def _kept(self, payload: Mapping[str, Any] | None) -> Path:
        # gradio's file stays for a while: visitors who send the same picture share it
        return uploads.keep_picture(self._uploaded(payload), self.inputs)

    def _strokes(self, payload: Mapping[str, Any] | None) -> Tensor:
        """Return the strokes of the brush, [h, w, 4], which the editor uploads as its only layer."""
        layers = (payload or {}).get("layers") or [None]
        if layers[0] is None:
            raise InputError("paint first: green where the object is, red where it is not")
        return uploads.read_pixels(self._uploaded(layers[0]))

    def _uploaded(self, payload: Mapping[str, Any] | None) -> Path:
        """Return the file that a component names, if it is one of gradio's own; gradio does not check all of them."""
        path = (payload or {}).get("path")
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


def _about(text: str) -> str:
    first, _, rest = text.partition(". ")
    if not first:
        return ""
    more = f"<details><summary>more</summary>{html.escape(rest)}</details>" if rest else ""
    return _note(f"{first.rstrip('.')}.") + more


def _note(text: str) -> str:
    return f'<p class="ls-about">{html.escape(text)}</p>'


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
