"""A browser for tests of pages, with mouse, touch and keyboard: Playwright, if it is installed.

``pip install playwright`` brings the driver; the browser is the system's Chromium, or the one that
``playwright install chromium`` fetches.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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


@contextmanager
def visits(browser: Any, file: Path) -> Iterator[tuple[Callable[..., Any], list[str]]]:
    """A function that opens a page from its file, and all addresses that were asked for so far.

    Each page has a context of its own. None may log an error, or ask another machine for anything.
    """
    contexts, errors, asked = [], [], []

    def visit(**options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        return page

    yield visit, asked
    for context in contexts:
        context.close()
    assert errors == []
    assert all(re.match(r"file:|data:|blob:", address) for address in asked)
