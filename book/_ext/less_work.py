"""What would otherwise be done again and again while the book is built, and takes a third of it.

Python looks through all nodes for garbage each time that they have become a quarter more, and they
only become more. The table of contents beside a page is put together anew for each; beside the code
of the package, which is in no such table, it differs only by the folder that its links start from.
"""

import gc
from pathlib import PurePosixPath
from typing import Any


def setup(app: Any) -> dict[str, bool]:
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    app.connect("builder-inited", keep_tables_of_contents)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def keep_tables_of_contents(app: Any) -> None:
    draw = getattr(app.builder, "_get_local_toctree", None)
    if draw is None:  # a builder without pages
        return
    kept: dict[tuple, str] = {}

    def drawn_once_a_folder(docname: str, collapse: bool = True, **options: Any) -> str:
        if docname in app.env.found_docs:
            return draw(docname, collapse, **options)
        key = (PurePosixPath(docname).parent, collapse, *sorted(options.items()))
        if key not in kept:
            kept[key] = draw(docname, collapse, **options)
        return kept[key]

    app.builder._get_local_toctree = drawn_once_a_folder
