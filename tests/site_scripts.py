"""Scripts of the pages, run without their pages: by Node or by a browser, whichever is here."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup


def run_script(files: list[Path], expression: str, folder: Path) -> Any:
    """What ``expression`` is after ``files`` were run in order, by way of JSON."""
    code = "\n".join(file.read_text(encoding="utf-8") for file in files)
    if node := shutil.which("node"):
        script = folder / "script.js"
        script.write_text(f"{code}\nconsole.log(JSON.stringify({expression}));", encoding="utf-8")
        return json.loads(_output_of([node, script]))
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("neither Node nor a browser here")
    page = folder / "page.html"
    page.write_text(
        f"<!doctype html><meta charset=utf-8><pre id=result></pre><script>{code}\n"
        f"document.querySelector('#result').textContent = JSON.stringify({expression});</script>",
        encoding="utf-8",
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}"]
    dump = _output_of([browser, *flags, "--dump-dom", page.as_uri()])
    return json.loads(BeautifulSoup(dump, "html.parser").select_one("#result").text)


def _output_of(command: list[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
