"""Buttons that lead to the repository and to machines that run its notebooks.

Only where its address is known: `make book REPOSITORY=owner/name` hands it over in an environment
variable. Without it a page has none of them, because each would lead nowhere. The theme makes those
of Colab, Binder, edit and issue; Kaggle's is added here.
"""

import os
from typing import Any

ADDRESS = "DINO_TUTORIAL_REPOSITORY"
BRANCH = "main"
KAGGLE = "https://kaggle.com/kernels/welcome?src="


def setup(app: Any) -> dict[str, bool]:
    app.connect("config-inited", point_at_repository)
    app.connect("html-page-context", add_kaggle, priority=502)  # after the theme's own buttons
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def address() -> str:
    """https://github.com/OWNER/NAME, or nothing."""
    repository = os.environ.get(ADDRESS)
    return f"https://github.com/{repository}" if repository else ""


def point_at_repository(app: Any, config: Any) -> None:
    if not address():
        return
    config.html_theme_options |= {
        "repository_url": address(),
        "repository_branch": BRANCH,
        "path_to_docs": "",
        "use_repository_button": True,
        "use_issues_button": True,
        "use_edit_page_button": True,
        "launch_buttons": {
            "colab_url": "https://colab.research.google.com",
            "binderhub_url": "https://mybinder.org",
            "notebook_interface": "jupyterlab",
        },
    }


def add_kaggle(app: Any, pagename: str, templatename: str, context: dict, doctree: Any) -> None:
    for group in context.get("header_buttons", ()):
        if group.get("label") == "launch-buttons":
            file = f"{address()}/blob/{BRANCH}/{pagename}.ipynb"
            group["buttons"].append(
                {
                    "type": "link",
                    "text": "Kaggle",
                    "tooltip": "Launch on Kaggle",
                    "icon": "fab fa-kaggle",
                    "url": KAGGLE + file,
                }
            )
