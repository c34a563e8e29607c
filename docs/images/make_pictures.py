"""Make the README's pictures of page, report and viewer anew: make pictures.

It lifts the bundled sofa on the page, and pauses a reconstruction of the bundled capture in the viewer, in a headless
Chromium on this machine, which takes some minutes.
"""

import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.browser import ARGUMENTS  # of tests/
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.support.ui import WebDriverWait

FOLDER = Path(__file__).parent
SOFA = FOLDER.parents[1] / "assets/demo/objects/sofa.png"
PAGE_PORT, VIEWER_PORT = 7871, 7872
START_S, RUN_S = 120, 3600  # at most, to start a server and to end a run
SETTLE_S = 6  # until 3D views are drawn in full
SCALE = 0.75  # of the pictures, to the windows
PAUSE_AT = 90  # step at which the viewer's run is paused


def main() -> None:
    """Write page.jpg, report.jpg and viewer.jpg."""
    with tempfile.TemporaryDirectory() as name, browser() as driver:
        runs = Path(name)
        with serving(f"app --runs-dir {runs} --port {PAGE_PORT} --device cpu".split(), PAGE_PORT):
            photograph_page(driver)
        (report,) = runs.glob("*/*/report.html")
        photograph_report(driver, report)
        train = f"--config reconstruct-views --train --viewer --viewer-port {VIEWER_PORT} runs_dir={runs}"
        with serving([*train.split(), "system.stages.coarse.steps=200"], VIEWER_PORT):
            photograph_viewer(driver)


def photograph_page(driver: Any) -> None:
    """Lift the sofa on the page and take its picture when the mesh is shown."""
    open_page(driver, f"http://127.0.0.1:{PAGE_PORT}/", 1280, 1266)
    wait(driver, "return document.querySelector('#picture input[type=file]')", START_S).send_keys(str(SOFA))
    wait(driver, "return document.querySelector('#cut-out').textContent.includes('°')", START_S)
    driver.execute_script("document.querySelector('#do-lift').click()")
    done = "document.querySelector('#status').textContent.includes('done')"
    wait(driver, f"return {done} && document.querySelector('#mesh iframe')", RUN_S)
    driver.execute_script("scrollTo(0, 0)")
    save(driver, "page")


def photograph_report(driver: Any, path: Path) -> None:
    """Take a picture of the result in the report."""
    open_page(driver, f"{path.as_uri()}#result", 1280, 980)
    driver.execute_script("document.querySelectorAll('video').forEach(video => { video.controls = false })")
    save(driver, "report")


def photograph_viewer(driver: Any) -> None:
    """Pause the run, show the cameras of its step, and take a picture."""
    open_page(driver, f"http://127.0.0.1:{VIEWER_PORT}/", 1280, 660)
    wait(driver, f"return (document.body.innerText.match(/step (\\d+)/) ?? [0, 0])[1] >= {PAUSE_AT}", RUN_S)
    click(driver, "button", "Pause")
    wait(driver, "return document.body.innerText.includes('paused')", START_S)
    for label in ("Training cameras", "Cameras of this step"):
        click(driver, "label", label)
    driver.execute_script("document.querySelectorAll('.mantine-Notification-closeButton').forEach(e => e.click())")
    save(driver, "viewer")


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or sys.exit("chromium is not installed")
    for argument in ARGUMENTS:
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def serving(arguments: list[str], port: int) -> Iterator[None]:
    """Run liftstudio with these arguments, once it answers at a port of this machine; ended afterwards."""
    process = subprocess.Popen([sys.executable, "-m", "liftstudio", *arguments])
    try:
        until = time.time() + START_S
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
                break
            if process.poll() is not None or time.time() > until:
                sys.exit(f"liftstudio {arguments[0]} does not answer at port {port}")
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait()


def open_page(driver: Any, address: str, width: int, height: int) -> None:
    """Open a page in a window of this size, in pixels."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(address)


def wait(driver: Any, script: str, seconds: float) -> Any:
    """Return what a script returns as soon as it is true."""
    return WebDriverWait(driver, seconds, 0.5, [WebDriverException]).until(lambda _: driver.execute_script(script))


def click(driver: Any, tag: str, text: str) -> None:
    """Click the element of a kind that shows a text."""
    find = f"[...document.querySelectorAll('{tag}')].find(e => e.textContent.trim() === '{text}')"
    wait(driver, f"const found = {find}; found?.click(); return found", START_S)


def save(driver: Any, name: str) -> None:
    """Write what the window shows as a JPEG file beside this script."""
    time.sleep(SETTLE_S)
    image = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    size = (round(SCALE * image.width), round(SCALE * image.height))
    image.resize(size, Image.Resampling.LANCZOS).save(FOLDER / f"{name}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
