"""The page in a real browser: pictures, brush, zip, prompt; views and mesh, stop and resume; two runs compared."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import console_errors

pytest.importorskip("gradio", reason="the page needs gradio")

from helpers.page_visitor import serving
from helpers.queues import HELD_AT, let_go
from helpers.tiny_prior import PROJECT

from liftstudio.data.images import load_image

WAIT_S = 90
KNOWN = ("Method not implemented", "WebGPU", "No available adapters", "colorToUniform")  # gradio's; there is no GPU


class Window:
    """The page in a browser; elements are named by their ids."""

    def __init__(self, driver: Any, port: int) -> None:
        self.driver = driver
        driver.get(f"http://127.0.0.1:{port}/")
        self.wait(lambda: self.all("#do-lift"))

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def text(self, name: str) -> str:
        return self.driver.execute_script(f"return document.querySelector('#{name}')?.textContent.trim() ?? ''")

    def click(self, selector: str) -> None:
        self.wait(lambda: self.all(selector))
        self.driver.execute_script(f"document.querySelector('{selector}').click()")

    def send(self, path: Path, name: str = "picture") -> None:
        self.wait(lambda: self.all(f"#{name} input[type=file]"))
        self.all(f"#{name} input[type=file]")[0].send_keys(str(path.absolute()))

    def choose(self, method: str) -> None:
        field = self.all("#method input")[0]
        field.click()
        field.clear()
        field.send_keys(method, "\n")
        self.wait(lambda: field.get_property("value") == method)

    def slide(self, value: float) -> None:
        self.driver.execute_script(
            "const e = document.querySelector('#elevation input[type=range]'); e.value = arguments[0];"
            "for (const name of ['input', 'change', 'pointerup']) e.dispatchEvent(new Event(name, {bubbles: true}))",
            value,
        )

    def paint(self) -> None:
        """Draw a short stroke of the brush below the object."""
        from selenium.webdriver import ActionChains

        self.click("#correct button")
        self.wait(lambda: self.all("#brush canvas")[0].size["width"] > 100)
        canvas = self.all("#brush canvas")[0]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        stroke = ActionChains(self.driver).move_to_element_with_offset(canvas, -20, 110).click_and_hold()
        stroke.move_by_offset(20, 5).move_by_offset(20, -5).release().perform()

    def fill(self, name: str, text: str) -> None:
        self.driver.execute_script(
            f"const e = document.querySelector('#{name} textarea'); e.value = arguments[0];"
            "e.dispatchEvent(new Event('input', {bubbles: true}))",
            text,
        )

    def wait(self, until: Callable[[], Any]) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, WAIT_S, 0.2, (Exception,)).until(lambda _: until())


def prepare() -> None:
    """Write a wrong file, a zip of the capture, and a config that takes several pictures."""
    Path("wrong.png").write_text("<!doctype html><script>alert(1)</script>")
    shutil.make_archive("capture", "zip", "capture")
    several = PROJECT.replace("image: ???\n", "image: photo.png\nimages: {}\n")
    Path("ball.yaml").write_text(several.replace("  image: ${image}\n", "  image: ${image}\n  images: ${images}\n"))


def test_the_page_in_a_browser(ball_project: Path, browser: Any) -> None:
    prepare()
    with serving(Path("runs")) as (queue, port):
        window = Window(browser, port)
        window.wait(lambda: "Drop a picture" in window.text("status"))
        console_errors(browser)

        window.send(Path("wrong.png"))
        window.wait(lambda: "found an HTML page" in window.text("problem"))
        window.click("#do-lift")
        window.wait(lambda: "drop a picture first" in window.text("problem"))

        window.send(Path("photo.png"))
        window.wait(lambda: "°" in window.text("cut-out") and not window.text("problem"))
        window.wait(lambda: "and the 6 views" in window.text("orbit"))
        window.slide(-7.5)
        window.wait(lambda: "at -7.5°" in window.text("orbit"))

        before = set(Path("runs/inputs").iterdir())
        window.paint()
        cut_out = _html(window, "cut-out")

        def is_applied() -> bool:
            window.click("#apply")
            window.wait(lambda: _html(window, "cut-out") != cut_out or window.all("#problem .ls-error"))
            return _html(window, "cut-out") != cut_out

        window.wait(is_applied)  # the editor sends the strokes a moment after they are drawn

        window.driver.refresh()
        window.wait(lambda: "°" in window.text("cut-out") and window.all('#picture img[src$="image.webp"]'))

        window.click("#do-views")
        window.wait(lambda: "done" in window.text("status") and "contact_sheet" in _html(window, "result"))
        views = queue.entries()[0]
        assert not views.result().files and Path(views.overrides["image"]) not in before
        corrected, original = (load_image(name)[1] for name in (views.overrides["image"], "photo.png"))
        assert corrected.sum() > original.sum() + 100

        window.click("#options-panel button")
        window.wait(lambda: window.all("#options textarea"))
        window.fill("options", f"export.formats=[glb]\nsystem.waits_at={HELD_AT}\nsystem.steps=30")
        window.click("#do-lift")
        window.wait(lambda: "of 30" in window.text("status") and window.all("#status polyline"))
        window.driver.refresh()
        window.wait(lambda: "of 30" in window.text("status"))
        window.click("#stop")
        let_go()
        window.wait(lambda: "Resume goes on" in window.text("status"))
        window.click("#resume:not([disabled])")
        window.wait(lambda: "done" in window.text("status") and window.all("#mesh iframe"))
        window.wait(lambda: window.all("#result video")[0].get_property("readyState") >= 2)
        assert queue.entries()[1].mode == "resume" and len(list(Path("runs/ball").iterdir())) == 2
        links = window.driver.execute_script(
            "return [...document.querySelectorAll('#result a[download]')].map(a => a.href)"
        )
        mesh = next(link for link in links if "mesh.glb" in link)
        size = window.driver.execute_async_script(
            "fetch(arguments[0]).then(r => r.arrayBuffer()).then(b => arguments[1](b.byteLength))", mesh
        )
        assert size == Path(queue.entries()[1].folder, "export/mesh.glb").stat().st_size
        check_scene(window)

        window.send(Path("photo.png"))
        window.wait(lambda: "°" in window.text("cut-out"))
        window.click("#more button")
        window.send(Path("photo.png"), "picture-back")
        window.wait(lambda: window.all('#picture-back img[src$="image.webp"]'))  # as the server has kept it
        window.click("#do-views")
        window.wait(lambda: "failed" in window.text("status"))
        several = queue.entries()[2]
        assert several.overrides["images"].keys() == {"front", "back"} and "are the same image" in several.error

        window.choose("tiny.yaml")
        window.send(Path("capture.zip"), "capture")
        window.wait(lambda: "the photographs are there" in window.text("cut-out"))
        window.click("#do-views")
        window.wait(lambda: "tiny/" in window.text("status") and "done" in window.text("status"))
        window.choose("mvdream")
        window.wait(lambda: window.all("#prompt textarea") and not window.all("#picture"))
        window.fill("prompt", "a ball")
        window.click("#do-views")
        window.wait(lambda: "no such file" in window.text("problem"))

        for tab in window.all("button[role=tab]"):
            if tab.text == "History":
                tab.click()
        window.wait(lambda: len(window.all("#runs input")) == 4)
        for number in (3, 4):  # the first are the newest
            window.click(f"#runs label:nth-of-type({number}) input")
        window.wait(lambda: window.text("left-title") and window.text("right-title"))
        window.wait(
            lambda: "mesh.glb" in _html(window, "left-result") and "contact_sheet" in _html(window, "right-result")
        )
        assert not [line for line in console_errors(browser) if not any(known in line for known in KNOWN)]


def check_scene(window: Window) -> None:
    """Check that the mesh is drawn in 3D, and as a wireframe after a click."""
    frame = window.all("#mesh iframe")[0]
    window.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", frame)
    window.driver.switch_to.frame(frame)
    window.wait(lambda: window.all("canvas") and window.driver.execute_script("return Boolean(camera)"))
    window.click("nav button[value=wireframe]")
    is_wire = "let all = true; scene.traverse(o => { if (o.isMesh) all = all && o.material.wireframe }); return all"
    assert window.driver.execute_script(is_wire)
    assert [button.text for button in window.all("nav button[aria-pressed=true]")] == ["wireframe"]
    window.driver.switch_to.default_content()


def _html(window: Window, name: str) -> str:
    return window.driver.execute_script(f"return document.querySelector('#{name}')?.innerHTML ?? ''")
