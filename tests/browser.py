"""A browser for tests of pages, with mouse, touch and keyboard: Playwright, if it is installed.

``pip install playwright`` brings the driver; the browser is the system's Chromium, or the one that
``playwright install chromium`` fetches.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def open_browser() -> Iterator[Any]:
    """Playwright's browser; the test is skipped where there is none."""
    driver = pytest.importorskip("playwright.sync_api", reason="no browser here: no Playwright")
    with driver.sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        try:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        except driver.Error:
            pytest.skip("no browser here: no Chromium")
        yield browser
        browser.close()
