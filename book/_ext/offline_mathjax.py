"""Formulas without a network: the part of MathJax that the pages need, put beside them.

The package sphinx-mathjax-offline brings all of MathJax, 24 MB. A page loads one script and the
fonts, 1.5 MB.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

SCRIPT = "tex-mml-chtml.js"
FONTS = "output/chtml/fonts"


def copy_mathjax(app, error):
    if error is None and app.builder.format == "html":
        source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
        target = Path(app.outdir) / "_static" / "mathjax"
        target.mkdir(exist_ok=True)
        shutil.copy(source / SCRIPT, target)
        shutil.copytree(source / FONTS, target / FONTS, dirs_exist_ok=True)


def setup(app):
    app.config.mathjax_path = f"mathjax/{SCRIPT}"
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
