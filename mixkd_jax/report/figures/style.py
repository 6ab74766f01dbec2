"""What all figures share: size, fonts, the look of each arm, axes, and the way into files."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from etils import epath
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from mixkd_jax.files import write_bytes
from mixkd_jax.folder import BASES, TEACHER
from mixkd_jax.report.figures import fonts
from mixkd_jax.report.records import base

WIDTH = 3.3  # inches: a column of a paper in two columns
KEY_COLUMNS = 2  # of the small print below a figure
MOST_ARMS = 8  # in one figure; more can't be told apart
# Axes, text and the teacher are drawn in this colour; a page replaces it by its own text colour.
INK = "#1a1a19"
# Okabe and Ito (2008) without black and yellow; markers and dashes tell the arms apart in grey.
_COLORS: dict[str, str] = dict(
    zip(BASES, ("#d55e00", "#e69f00", "#009e73", "#0072b2"), strict=True)
)
_OTHER_COLORS = ("#56b4e9", "#cc79a7", "#8a8a85")
_SHADES = (0, 0.35, -0.3, 0.55, -0.5)  # towards white, or black below 0
# The lengths have no common factor, so that no two of 35 arms of one colour look the same.
_MARKERS = ("s", "^", "D", "o", "v", "P", "X")
_DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)), "solid", (0, (9, 3)))
STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": [fonts.NAME, fonts.WHOLE],
    "font.size": 8,
    "grid.alpha": 0.35,
    "grid.color": "#8a8a85",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "mixkd_jax",
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a name is a "$"
    "xtick.color": INK,
    "ytick.color": INK,
}


def looks(arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns colour, dash and marker of the teacher and of each arm.

    The bases look the same in every report. An arm with options has a shade of its base's colour,
    and its own marker and dash.
    """
    found: dict[str, dict[str, Any]] = {
        TEACHER: {"color": INK, "linestyle": "solid", "marker": "*"}
    }
    families = list(dict.fromkeys([*BASES, *(base(arm) for arm in arms if arm != TEACHER)]))
    options: dict[str, int] = {}
    for arm in arms:
        if arm == TEACHER:
            continue
        family = base(arm)
        place = families.index(family)
        if arm == family:
            number = 0
        else:
            number = options[family] = options.get(family, 0) + 1
        others = _OTHER_COLORS[(place - len(BASES)) % len(_OTHER_COLORS)]
        found[arm] = {
            "color": _shade(_COLORS.get(family, others), _SHADES[number % len(_SHADES)]),
            "linestyle": _DASHES[(place + number) % len(_DASHES)],
            "marker": _MARKERS[(place + number) % len(_MARKERS)],
        }
    return found


def drawn(arms: Sequence[str]) -> list[str]:
    """Returns the arms that a figure shows: all, or of very many those without options."""
    if len(arms) <= MOST_ARMS:
        return list(arms)
    plain = [arm for arm in arms if base(arm) == arm]
    return (plain or list(arms))[:MOST_ARMS]


def create(width: float = WIDTH, height: float = 2.6) -> Figure:
    """Returns an empty figure, in inches; to be used within `rc_context(STYLE)`."""
    fonts.register()
    return Figure(figsize=(width, height), layout="constrained")


def log_axis(axes: Axes) -> None:
    """Makes the vertical axis logarithmic, with plain numbers at several ticks.

    To be called once all is drawn. Over less than a decade the ticks are those of a linear axis:
    from 7.6 to 9.9 no power of ten, nor twice or five times one, would be in sight.
    """
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    few = high < 10 * low
    axes.yaxis.set_major_locator(
        MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]) if few else LogLocator(subs=(1, 2, 5), numticks=9)
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def legend(figure: Figure, axes: Axes) -> None:
    """Puts the legend above the axes, where it hides no data, in as few rows as the width allows.

    Labels become drawable. For rows beyond the third the figure grows, and not the axes shrink.
    """
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    labels = [fonts.drawable(label) for label in labels]
    width = figure.get_figwidth() * 72
    columns = next((n for n in range(len(labels), 1, -1) if _legend_width(labels, n) <= width), 1)
    rows = -(-len(labels) // columns)
    columns = -(-len(labels) // rows)  # so that the last row isn't left almost empty
    more = rows - 3
    # A legend is filled column by column, and read row by row.
    order = [i for column in range(columns) for i in range(column, len(labels), columns)]
    figure.set_figheight(figure.get_figheight() + 0.17 * max(more, 0))
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside upper center",
        ncols=columns,
        columnspacing=1.0,
        handlelength=2.2,
        handletextpad=0.5,
    )


def key(figure: Figure, handles: Mapping[str, Artist]) -> None:
    """Puts what marks mean below a figure, in small print; nothing if there are none."""
    if handles:
        figure.legend(
            handles.values(),
            [fonts.drawable(label) for label in handles],
            loc="outside lower center",
            ncols=KEY_COLUMNS,
            fontsize=6,
            columnspacing=1.0,
            handlelength=1.0,
            labelspacing=0.25,
        )


def save(figure: Figure, path: epath.Path) -> None:
    """Writes `path`.png and `path`.pdf for a paper: white ground, bytes that depend on it alone."""
    _settle(figure)
    png, pdf = io.BytesIO(), io.BytesIO()
    dates = dict.fromkeys(("CreationDate", "Creator", "Producer"))
    with matplotlib.rc_context({**STYLE, "pdf.fonttype": 42}):
        figure.set(dpi=300, facecolor="white")
        FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
        FigureCanvasPdf(figure).print_pdf(pdf, metadata=dates)
    write_bytes(path.with_name(path.name + ".png"), png.getvalue())
    write_bytes(path.with_name(path.name + ".pdf"), pdf.getvalue())


def _settle(figure: Figure) -> None:
    """Lays a figure out, once for all the files that it goes into: that takes half of the time."""
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        with matplotlib.rc_context(STYLE):
            FigureCanvasAgg(figure)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")


def svg(figure: Figure, prefix: str, description: str) -> str:
    """Returns an `<svg>` element for an HTML page: it scales, and takes the page's text colour.

    Args:
      figure: any figure of this package.
      prefix: put before every id, so that several figures can share a page.
      description: what a screen reader says.

    Returns:
      Text that depends on the figure alone: no date, no random ids.
    """
    _settle(figure)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(STYLE):
        figure.set(facecolor="none")
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    text = buffer.getvalue()
    view = re.findall(r'viewBox="[^"]*"', text)[0]
    body = text[text.index(">", text.index("<svg")) + 1 :].strip()
    body = re.sub(r' id="', f' id="{prefix}-', body.replace(INK, "currentColor"))
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", body)
    body = body.replace(">*{", f">#{prefix}-figure_1 *{{")  # or it would style the whole page
    body = re.sub(r"\\u\{([0-9a-f]{1,6})\}", _undrawn, body)
    # The namespaces are names, never fetched; matplotlib writes xlink:href for its markers.
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} {view} role="img" aria-label="{html.escape(description)}">{body}'


def _undrawn(match: re.Match[str]) -> str:
    """Returns the character of an escape by `fonts.drawable`; all else as it is, such as a "<"."""
    code = int(match[1], 16)
    is_safe = 0x7F < code <= 0x10FFFF and chr(code).isprintable()
    return chr(code) if is_safe else match[0]


def _shade(color: str, amount: float) -> str:
    towards = 1.0 if amount > 0 else 0.0
    red, green, blue = ((1 - abs(amount)) * p + abs(amount) * towards for p in to_rgb(color))
    return to_hex((red, green, blue))


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """Estimate in points: 5.2 a character, 38 for a column's line and spaces."""
    return sum(38 + 5.2 * max(map(len, labels[i::columns])) for i in range(columns))
