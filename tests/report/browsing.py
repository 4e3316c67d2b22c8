"""A headless Chromium for the tests of the page, and what they look at with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

CHECKS = Path(__file__).with_name("page_checks.js")


def open_browser() -> Any:
    """Return a driver of an installed Chromium without a network; skip where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no Chromium with its driver is installed (Debian: chromium and chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    quiet = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars")
    for argument in (*quiet, "--host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(argument)
    try:
        return webdriver.Chrome(options=options, service=Service(driver))
    except WebDriverException as error:
        pytest.skip(f"Chromium does not start here: {str(error.msg).splitlines()[0]}")


def lay_out(driver: Any, width: int, *, dark: bool = False, medium: str = "screen") -> None:
    """Give the page a width in pixels, a colour scheme and a medium."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": [scheme]})


def faults(driver: Any) -> list[str]:
    """Return what is inaccessible in the page as it is laid out now, as `rule: where`."""
    return list(driver.execute_script(CHECKS.read_text(encoding="utf-8")))


def visible(driver: Any, selector: str) -> int:
    """Return how many elements are laid out and painted."""
    script = "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).length"
    return int(driver.execute_script(script, selector))
