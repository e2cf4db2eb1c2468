"""Figures with controls, for pages that have no kernel behind them and notebooks that have one.

Every combination of the controls' values is drawn beforehand, so a page computes nothing and can
disagree with the package in nothing: its script only looks frames up. The page gets native
sliders and radio buttons, which the keyboard reaches, and the words of the frame it shows.
Where scripts do not run it shows the frame of the start as a picture, or another still. Nothing is
loaded from elsewhere.
"""

import base64
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product
from numbers import Real
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from dino_tutorial.options import takes
from dino_tutorial.plots.style import COLOURS, DescribedFigure, number, to_png, to_svg

if TYPE_CHECKING:
    from ipywidgets import VBox, Widget

Value = Real | str


class InteractiveFigure:
    """A figure whose controls choose what is drawn; in a notebook, the last line of a cell.

    Args:
        title: what the controls belong to, a name that no other figure of the page has.
        draw: called with one value of each control, in their order; returns a figure with
            ``alt_text``. All its figures should have one size.
        controls: name -> the values it can take, at least one. Numbers become a slider, in the
            given order; words become radio buttons.
        start: one value of each control, shown first; None takes their first values.
        still: what is shown instead where scripts do not run, and on paper; None takes the frame
            of the start.

    Raises:
        ValueError: when ``start`` is not among the values, or a frame has no ``alt_text``.
    """

    @takes()
    def __init__(
        self,
        title: str,
        draw: Callable[..., DescribedFigure],
        controls: Mapping[str, Collection[Value]],
        start: Sequence[Value] | None = None,
        still: DescribedFigure | None = None,
    ):
        self.title, self.draw, self.still = title, draw, still
        self.controls = {name: list(values) for name, values in controls.items()}
        self.combinations = list(product(*self.controls.values()))
        self.start = tuple(start or self.combinations[0])
        if self.start not in self.combinations:
            raise ValueError(f"start is {self.start}, which is no combination of {self.controls}")

    def __repr__(self) -> str:
        return f"<InteractiveFigure: {self.title}, {len(self.combinations)} frames>"

    def _repr_html_(self) -> str:
        figures = [self.draw(*values) for values in self.combinations]
        for values, figure in zip(self.combinations, figures, strict=True):
            if not figure.alt_text:
                raise ValueError(f"the frame of {values} has no alt_text")
        first = self.still or figures[self.combinations.index(self.start)]
        frames = [to_svg(figure, _slug(self.title)) for figure in figures]
        controls = [
            {
                "name": name,
                "labels": [_label(value) for value in values],
                "start": values.index(chosen),
                "slider": _is_slider(values),
            }
            for (name, values), chosen in zip(self.controls.items(), self.start, strict=True)
        ]
        png = base64.b64encode(to_png(first, dpi=110)).decode()
        return _render(
            title=self.title,
            picture=Markup('<img src="data:image/png;base64,{}" alt="{}">').format(
                png, first.alt_text
            ),
            controls=controls,
            frames=Markup(_lines_once(frames)),
            still=self.still is not None,
        )

    def live(self, controls: "Mapping[str, Widget] | None" = None) -> "VBox":
        """The same figure as ipywidgets, drawn by the kernel when a control moves.

        Args:
            controls: name -> widget that replaces the control's own, for example a slider over
                values that the page has no frames for.
        """
        import ipywidgets

        chosen = {}
        for (name, values), first in zip(self.controls.items(), self.start, strict=True):
            kind = ipywidgets.SelectionSlider if _is_slider(values) else ipywidgets.RadioButtons
            options = [(_label(value), value) for value in values]
            chosen[name] = kind(options=options, value=first, description=name)
        chosen |= controls or {}
        view = ipywidgets.HTML()

        def show(_change=None):
            figure = self.draw(*(widget.value for widget in chosen.values()))
            svg = to_svg(figure, _slug(f"{self.title} live"))
            view.value = _render(title=self.title, picture=Markup(svg), words=figure.alt_text)

        for widget in chosen.values():
            widget.style.description_width = "initial"
            widget.observe(show, "value")
        show()
        return ipywidgets.VBox([*chosen.values(), view])


def _lines_once(frames: Sequence[str]) -> str:
    """JSON of all frames: each different line once, and each frame as the numbers of its lines.

    Frames of one figure share most of their lines: axes, letters, images.
    """
    lines = {line: None for frame in frames for line in frame.splitlines()}
    place = {line: index for index, line in enumerate(lines)}
    numbers = [[place[line] for line in frame.splitlines()] for frame in frames]
    text = json.dumps({"lines": list(lines), "frames": numbers}, separators=(",", ":"))
    return text.replace("</", "<\\/")  # nothing inside may end the script element


def _is_slider(values: Sequence[Value]) -> bool:
    return all(isinstance(value, Real) for value in values)


def _label(value: Value) -> str:
    return number(value) if isinstance(value, Real) else value


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _render(**parts) -> str:
    environment = Environment(
        loader=PackageLoader("dino_tutorial.plots", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("interactive.html").render(colours=COLOURS, **parts)
