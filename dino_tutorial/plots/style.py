"""One look for the book and the run report.

The colours are those of Okabe and Ito (2008), which stay apart for every common kind of colour
blindness. Each colour has a second value for a dark page: a figure saved by :func:`to_svg`
refers to CSS variables, so the page that holds it decides which of the two is drawn. Figures are
4.6 inches wide with ten-point text, so that a phone shows them at about their own size.
"""

import base64
import functools
import hashlib
import html
import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatterMathtext

from dino_tutorial.errors import UserError
from dino_tutorial.files import kind_of, user_path, write_bytes
from dino_tutorial.options import takes, whole

WIDTH = 4.6  # inches, of every figure
P = ParamSpec("P")

#: Colours by name: on a light card, on a dark one. Those that end in ``-text`` are for words, with
#: a contrast of 4.5 or more.
COLOURS = {
    "card": ("#fefefd", "#191d23"),
    "ink": ("#1f2428", "#e9ebee"),
    "muted": ("#5b646d", "#a6afb9"),
    "grid": ("#e3e6e9", "#323940"),
    "blue": ("#0072b2", "#4fa9de"),
    "vermillion": ("#d55e00", "#ee7d3b"),
    "green": ("#009e73", "#3cc299"),
    "purple": ("#cc79a7", "#dd97bf"),
    "orange": ("#e69f00", "#f0b537"),
    "sky": ("#56b4e9", "#8ccff4"),
    "yellow": ("#f0e442", "#f5ec74"),
    "blue-text": ("#005f96", "#7cc4f2"),
    "vermillion-text": ("#a84900", "#f79c66"),
    "green-text": ("#006e50", "#5ed6b0"),
    "purple-text": ("#9a3f70", "#e9aecf"),
}
#: The colours of curves, in the order in which they are used.
PALETTE = ("blue", "vermillion", "green", "purple", "orange", "sky", "yellow")


def colour(name: str) -> str:
    """The hexadecimal value that ``name`` has on a light card."""
    return COLOURS[name][0]


#: Matplotlib's settings (``rcParams``) for every figure of the book and the report.
STYLE = {
    "figure.facecolor": colour("card"),
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "savefig.facecolor": "auto",
    "axes.facecolor": colour("card"),
    "axes.edgecolor": colour("muted"),
    "axes.labelcolor": colour("muted"),
    "axes.titlecolor": colour("ink"),
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "normal",
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=[colour(name) for name in PALETTE]),
    "grid.color": colour("grid"),
    "grid.linewidth": 0.8,
    "xtick.color": colour("muted"),
    "ytick.color": colour("muted"),
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": colour("ink"),
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture everywhere
    "font.size": 10,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "image.interpolation": "none",
    "image.composite_image": False,
    "svg.fonttype": "none",  # text stays text: sharp, and in the font of the page
    "svg.hashsalt": "dino-tutorial",
}


def use_style() -> None:
    """Make the style the default of matplotlib, for figures that a notebook draws itself."""
    matplotlib.rcParams.update(STYLE)


class DescribedFigure(Figure):
    """A matplotlib figure that carries ``alt_text``: what it shows, written from its data.

    It belongs to no window and is not kept by pyplot, so nothing has to close it. A notebook
    shows it as a drawing in the colours of its theme, a terminal as its description.
    """

    alt_text: str = ""

    def _repr_svg_(self) -> str:
        return to_themed_svg(self)

    def __repr__(self) -> str:
        return f"<Figure: {self.alt_text}>"


def new_figure(height: float, width: float = WIDTH) -> DescribedFigure:
    """An empty figure of ``width`` x ``height`` inches that lays itself out."""
    return DescribedFigure(figsize=(width, height), layout="constrained")


def styled(draw: Callable[P, DescribedFigure]) -> Callable[P, DescribedFigure]:
    """Decorator: run a figure function under :data:`STYLE`, and leave matplotlib as it was.

    The layout is solved once and kept; solved again at each saving it would drift a little.
    """

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> DescribedFigure:
        # Names of classes and data are shown as they are, dollars included.
        with matplotlib.rc_context(STYLE | {"text.parse_math": False}):
            figure = draw(*args, **kwargs)
            _write_powers(figure)
            engine = figure.get_layout_engine()
            if engine is not None:
                engine.execute(figure)
                figure.set_layout_engine(None)  # "none" has each saving draw twice
            return figure

    return wrapper


RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _write_powers(figure: Figure) -> None:
    """10⁶ beside a logarithmic axis: matplotlib's formula would be shown as its source."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
            axis.set_major_formatter(FuncFormatter(lambda value, _: _power_of_ten(value)))


def _power_of_ten(value: float) -> str:
    return "10" + str(round(math.log10(value))).translate(RAISED)


@takes(dpi=whole(1, 10**4))
def to_png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as the bytes of a PNG file, on its light card."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }}
  figure {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem }} img {{ width: 100% }}
</style>
<figure>
  <img alt="{alt}" src="data:image/png;base64,{picture}">
  <figcaption>{alt}</figcaption>
</figure>
</html>
"""


def check_figure_path(path: str | Path) -> Path:
    """Refuse a place where no figure can be written, before one is drawn.

    Raises:
        UserError: another ending than .png, .svg, .pdf or .html, or no folder, or a folder.
    """
    path = user_path(path)
    if path.suffix not in (".png", ".svg", ".pdf", ".html"):
        raise UserError(f"{path} has to end in .png, .svg, .pdf or .html: choose another name")
    if kind_of(path.parent) != "folder":
        raise UserError(f"there is no folder {path.parent}: make it first")
    if kind_of(path) == "folder":
        raise UserError(f"{path} is a folder: name a file")
    return path


def save_figure(figure: DescribedFigure, path: str | Path, title: str = "Figure") -> Path:
    """Write a figure as .png, .svg, .pdf, or as an .html page that carries its alt text too.

    Raises:
        UserError: another ending, or a folder that is missing or cannot be written.
    """
    path = check_figure_path(path)
    if path.suffix == ".html":
        alt, name = html.escape(figure.alt_text), html.escape(title)
        picture = base64.b64encode(to_png(figure)).decode()
        page = PAGE.format(title=name, alt=alt, picture=picture)
        content = page.encode("utf-8", "backslashreplace")
    elif path.suffix == ".png":
        content = to_png(figure)
    else:
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(buffer, format=path.suffix[1:])
        content = buffer.getvalue()
    write_bytes(path, content)
    return path


def to_svg(figure: DescribedFigure, prefix: str) -> str:
    """The figure as an ``<svg>`` element to put inside an HTML page.

    Colours become ``var(--name)`` and text takes the font of the page. The alt text becomes the
    accessible name. The element needs a page that defines the variables of :data:`COLOURS`.

    Args:
        figure: with its alt text.
        prefix: begins every id, so that two figures of one page cannot clash.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, count=1, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(
        r' id="([^"]+)"', lambda hit: f' id="{prefix}-{hit[1]}"' if hit[1] in used else "", svg
    )
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r"font-family: [^;\"]+", "font-family: inherit", svg)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]+", r"\1 var(--sans)", svg)
    svg = re.sub(r' d="[^"]*"', _hundredths, svg)
    svg = re.sub(r"<image (?:(?!/>).)*/>", _smooth_if_large, svg, flags=re.DOTALL)
    names = {light: name for name, (light, _) in COLOURS.items()}
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda hit: _variable(names, hit[0]), svg)
    width, height = (72 * inches for inches in figure.get_size_inches())
    opening = (
        f'<svg role="img" aria-label="{html.escape(figure.alt_text)}"'
        f' viewBox="0 0 {width:g} {height:g}">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1).strip()


UNNAMED = "unnamed-plot"
ALONE = 'width="100%" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
THEMED = """\
<style>
#{name} {{ {light}; --sans: system-ui, sans-serif; max-width: 40rem }}
html[data-theme="dark"] #{name} {{ {dark} }}
#{name}:root {{ font-family: system-ui, sans-serif }}
@media (prefers-color-scheme: dark) {{ #{name}:root {{ {dark} }} }}
</style>"""


def to_themed_svg(figure: DescribedFigure) -> str:
    """The figure as an SVG file of its own, which brings the colours of both themes.

    As a picture it follows the system's theme; as an element of a page, the page's.
    """
    drawn = to_svg(figure, UNNAMED)
    name = f"plot-{hashlib.sha256(drawn.encode()).hexdigest()[:12]}"
    used = [key for key in COLOURS if f"var(--{key})" in drawn]
    light, dark = ("; ".join(f"--{key}: {COLOURS[key][i]}" for key in used) for i in (0, 1))
    style = THEMED.format(name=name, light=light, dark=dark)
    opening, rest = drawn.replace(UNNAMED, name).split(">", 1)
    return opening.replace("<svg", f'<svg id="{name}" {ALONE}', 1) + f">\n{style}{rest}"


def _variable(names: dict[str, str], value: str) -> str:
    return f"var(--{names[value]})" if value in names else value


def _hundredths(path: re.Match) -> str:
    """A path with coordinates to a hundredth of a point, a third shorter."""
    return re.sub(r"\d+\.\d{3,}", lambda value: f"{float(value[0]):.2f}", path[0])


def _smooth_if_large(image: re.Match) -> str:
    """Keep hard pixel edges for small pictures only: a photograph is scaled smoothly."""
    side = re.search(r'width="(\d+)"', image[0])
    if side and int(side[1]) > 64:
        return re.sub(r' style="image-rendering:[^"]*"', "", image[0])
    return image[0]


def number(value: float) -> str:
    """A number for people: three significant digits, ``12,000``, ``1e-5``."""
    if not math.isfinite(value):
        return str(value)
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 1:
        return f"{value:.{2 if abs(value) < 10 else 1}f}"
    if 0.9 < abs(value) < 1:  # a momentum: 0.9995 is not 1
        return f"{value:.4g}"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.3g}"


def percent(fraction: float) -> str:
    """``0.712`` as ``71.2 %``."""
    return f"{100 * fraction:.1f} %"


def counted(n: int, noun: str) -> str:
    """``1 step``, ``1,200 steps``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def label_at_right(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write labels beside the right edge, each at its height, pushed apart where they collide.

    Args:
        axes: their limits must be final.
        labels: (y in data units, text, colour name) of each.
    """
    low, high = axes.get_ylim()
    height = axes.figure.get_size_inches()[1] * 72 * axes.get_position().height
    gap = 13 / height  # a line of text, as a fraction of the axes
    ordered = sorted((label for label in labels if math.isfinite(label[0])), key=lambda x: x[0])
    wanted = [(y - low) / (high - low) for y, _, _ in ordered]
    for at, y, (_, text, name) in zip(wanted, spread(wanted, gap), ordered, strict=True):
        axes.annotate(
            text,
            xy=(1.005, at),
            xytext=(1.05, y),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=colour(name),
            fontsize=10,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour("muted"), "lw": 0.6, "shrinkB": 0},
        )


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move sorted positions as little as possible so that neighbours are ``gap`` apart.

    This is isotonic regression on ``position - index * gap`` by pooling adjacent violators.
    """
    blocks: list[list[float]] = []  # each block: [sum, count]
    for index, position in enumerate(positions):
        blocks.append([position - index * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + count]
    means = np.repeat([t / c for t, c in blocks], [int(c) for _, c in blocks])
    return [float(mean + index * gap) for index, mean in enumerate(means)]
