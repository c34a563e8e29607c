"""The page in a real browser: a picture, its views, the mesh, stop and resume, a download, two runs compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import browser, console_errors  # noqa: F401  a fixture

pytest.importorskip("gradio", reason="the page needs gradio")

from helpers.page_visitor import serving

WAIT_S = 90
KNOWN = ("Method not implemented", "WebGPU", "No available adapters")  # gradio's own; there is no GPU


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

    def send(self, path: Path) -> None:
        self.wait(lambda: self.all("#picture input[type=file]"))
        self.all("#picture input[type=file]")[0].send_keys(str(path.absolute()))

    def fill(self, name: str, text: str) -> None:
        self.driver.execute_script(
            f"const e = document.querySelector('#{name} textarea'); e.value = arguments[0];"
            "e.dispatchEvent(new Event('input', {bubbles: true}))",
            text,
        )

    def wait(self, until: Callable[[], Any]) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, WAIT_S, 0.2, (Exception,)).until(lambda _: until())


def test_the_page_in_a_browser(ball_project: Path, browser: Any) -> None:  # noqa: F811
    Path("wrong.png").write_text("<!doctype html><script>alert(1)</script>")
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
        window.click("#do-views")
        window.wait(lambda: "done" in window.text("status") and "contact_sheet" in _html(window, "result"))
        assert not queue.entries()[0].result().files

        window.click("#options-panel button")
        window.wait(lambda: window.all("#options textarea"))
        window.fill("options", "export.formats=[glb]\nsystem.seconds=0.1\nsystem.steps=30")
        window.click("#do-lift")
        window.wait(lambda: "of 30" in window.text("status") and window.all("#status polyline"))
        window.driver.refresh()
        window.wait(lambda: "of 30" in window.text("status"))
        window.click("#stop")
        window.wait(lambda: "Resume goes on" in window.text("status"))
        window.click("#resume:not([disabled])")
        window.wait(lambda: "done" in window.text("status") and window.all("#mesh canvas"))
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

        for tab in window.all("button[role=tab]"):
            if tab.text == "History":
                tab.click()
        window.wait(lambda: len(window.all("#runs input")) == 2)
        for number in (0, 1):
            window.click(f"#runs label:nth-of-type({number + 1}) input")
        window.wait(lambda: window.text("left-title") and window.text("right-title"))
        window.wait(
            lambda: "mesh.glb" in _html(window, "left-result") and "contact_sheet" in _html(window, "right-result")
        )
        assert not [line for line in console_errors(browser) if not any(known in line for known in KNOWN)]


def _html(window: Window, name: str) -> str:
    return window.driver.execute_script(f"return document.querySelector('#{name}')?.innerHTML ?? ''")
