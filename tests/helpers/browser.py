"""A real headless Chromium for tests of pages."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",  # WebGL without a GPU
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A selenium driver of Chromium whose console is logged; the test is skipped where there is no browser."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no browser test: selenium is not installed")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no browser test: chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    running.set_window_size(1280, 1000)
    yield running
    running.quit()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Any]:
    """The same for one test, with an empty console; afterwards no page goes on, whose scene the CPU would draw."""
    console_errors(chromium)
    yield chromium
    chromium.get("about:blank")


def console_errors(browser: Any) -> list[str]:
    """Return the errors and warnings in the console since the last call; the renderer's own remarks are left out."""
    entries = [each for each in browser.get_log("browser") if each["level"] in ("SEVERE", "WARNING")]
    return [each["message"] for each in entries if "GPU stall" not in each["message"]]


def color_scheme(browser: Any, name: str) -> None:
    """Let pages see `light` or `dark` as the user's preference."""
    media = {"features": [{"name": "prefers-color-scheme", "value": name}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
