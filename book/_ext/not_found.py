"""The page that a server shows for an address that it does not have: `404.html`.

A server shows it at any depth of the site, so it loads nothing, and finds the way to the first page
by the folder `book`, in which all pages lie.
"""

from pathlib import Path
from typing import Any

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Page not found — {title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{
  font: 1.1rem/1.6 system-ui, sans-serif;
  max-width: 36rem; margin: 20vh auto; padding: 0 1.5rem;
}}
a {{ color: light-dark(#005f96, #7cc4f2); }}
</style>
<main>
<h1>There is no such page</h1>
<p>It may have moved when a chapter got another name.</p>
<p><a href="./book/intro.html" data-to="book/intro.html">The first page</a> ·
<a href="./search.html" data-to="search.html">Search the book</a></p>
</main>
<script>
const root = location.pathname.split("/book/")[0]
  .replace(/[/][^/]*[.]html$/, "").replace(/[/]$/, "");
for (const link of document.querySelectorAll("[data-to]")) {{
  link.href = `${{root}}/${{link.dataset.to}}`;
}}
</script>
</html>
"""


def setup(app: Any) -> dict[str, bool]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        page = PAGE.format(title=app.config.html_title)
        Path(app.outdir, "404.html").write_text(page, encoding="utf-8")
