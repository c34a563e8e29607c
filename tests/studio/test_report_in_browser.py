"""The report in a real browser, opened from disk: no errors, a 3D scene that shows something, links that lead on."""

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from helpers.browser import browser, color_scheme, console_errors
from helpers.run_folders import make_run
from PIL import Image

from liftstudio.cli.command_line import main
from liftstudio.studio.report.page import write_report

__all__ = ["browser"]


def opened(browser: Any, path: Path) -> None:
    browser.get(path.absolute().as_uri())
    console = console_errors(browser)
    assert not console, console


def shown(browser: Any, scene: Any) -> np.ndarray:
    """The scene's pixels, once its mesh is drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    def drawn(_: Any) -> list[np.ndarray]:
        with Image.open(io.BytesIO(scene.screenshot_as_png)) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        middle = pixels[len(pixels) // 3 : -len(pixels) // 3, pixels.shape[1] // 3 : -pixels.shape[1] // 3]
        return [middle] if len(np.unique(middle.reshape(-1, 3), axis=0)) > 1 else []

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", scene)
    return WebDriverWait(browser, 30).until(drawn)[0]


def test_the_scene_is_drawn(browser: Any, here: Path) -> None:
    folder = make_run(here / "runs", prompt="<script>window.hacked=1</script>")
    color_scheme(browser, "dark")
    opened(browser, write_report(folder))
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    color_scheme(browser, "light")
    assert dark != browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert browser.execute_script("return window.hacked === undefined")
    scene = browser.find_element("css selector", ".scene iframe")
    pictures = {"shaded": shown(browser, scene)}
    for name in ("albedo", "normal", "wireframe"):
        button = browser.find_element("css selector", f".scene button[value={name}]")
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        pictures[name] = shown(browser, scene)
    assert not console_errors(browser)
    red, blue = (pictures["albedo"][..., channel].max() for channel in (0, 2))
    assert red > 180 and blue > 180, "the texture, as bright as its file"
    up = pictures["normal"][5].mean(axis=0), pictures["normal"][-5].mean(axis=0)
    assert up[0][2] > up[1][2] + 20, "z is up"
    names = sorted(pictures)
    for first, second in itertools.pairwise(names):
        assert np.abs(pictures[first].mean((0, 1)) - pictures[second].mean((0, 1))).max() > 3, (first, second)


def test_the_page_fits_a_narrow_screen(browser: Any, here: Path) -> None:
    path = write_report(make_run(here / "runs", prompt="long" * 60))
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": False}
    )
    opened(browser, path)
    width = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 360


def test_links_lead_on(browser: Any, here: Path) -> None:
    runs = [make_run(here / "runs", f"seed={seed}", tag=f"#{seed} ?") for seed in (0, 1)]
    for run in runs:
        write_report(run)
    assert main(["compare", *(str(run.path) for run in runs)]) == 0
    opened(browser, here / "compare.html")
    assert len(browser.find_elements("css selector", ".scene iframe")) == 2
    browser.find_element("link text", f"sv3d-masked-sds/{runs[1].path.name}").click()
    assert browser.title.startswith(f"sv3d-masked-sds/{runs[1].path.name}")
    browser.find_element("link text", "Files").click()
    assert browser.current_url.endswith("#files")
    browser.find_element("link text", "metrics.json").click()
    assert "21.5" in browser.find_element("tag name", "body").text
