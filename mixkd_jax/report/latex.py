"""Tables in LaTeX, no wider than the text of the class `article`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixkd_jax.report import results

if TYPE_CHECKING:
    from mixkd_jax.report.tables import Cell, Table

WIDTH = 345.0  # points: \textwidth of article at 10 pt
_CHARACTER = 4.6  # points at most, on average, of a character of \footnotesize
_SMALL = 3.7  # of \tiny
_BETWEEN = 6.0  # points between columns, twice \tabcolsep
_NAMES = 150.0  # points that the names of rows may take before they are broken into lines
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': "''",
    "±": r"$\pm$",
    "λ": r"$\lambda$",
    "−": "$-$",
    ":": r":\allowbreak{}",
    "=": r"=\allowbreak{}",
    "/": r"/\allowbreak{}",
}
_HEAD = r"""% {caption}.
% {about}
% For \input{{}} in the class article; columns that don't fit beside the others follow below.
% With \usepackage{{booktabs}} the rules are its own.
\providecommand{{\toprule}}{{\hline}}\providecommand{{\midrule}}{{\hline}}%
\providecommand{{\bottomrule}}{{\hline}}%
{{\footnotesize\setlength{{\tabcolsep}}{{3pt}}%
"""
_ABOUT = {
    True: "Paired differences: mean over seeds [95 % confidence interval, Student's t] (seeds in"
    " which the first arm is better/seeds).",
    False: "Mean over seeds; ± is the sample standard deviation over seeds.",
}


def render(table: Table) -> str:
    """Returns a table as `tabular` environments, one below the other, each at most `WIDTH` wide."""
    compared = any(
        not isinstance(cell, str) and cell.is_difference for row in table.rows for cell in row
    )
    names = [str(row[0]) for row in table.rows]
    natural = _CHARACTER * max(map(len, [table.headings[0], *names]))
    columns = list(range(1, len(table.headings)))
    widths = {k: _column_width(table, k) for k in columns}
    left = WIDTH - min(natural, _NAMES)
    blocks: list[list[int]] = [[]]
    used = 0.0
    for k in columns:
        used += widths[k] + _BETWEEN
        if used > left and blocks[-1]:
            blocks.append([])
            used = widths[k] + _BETWEEN
        blocks[-1].append(k)
    first = "l" if natural <= _NAMES else f"p{{{_NAMES:g}pt}}"
    head = _HEAD.format(caption=table.caption, about=_ABOUT[compared])
    body = "\\par\\medskip\n".join(_tabular(table, block, first) for block in blocks)
    return f"{head}{body}}}\n"


def escape(text: str) -> str:
    """Returns text for LaTeX: special characters escaped, what pdfTeX lacks by its code point.

    A minus before a digit becomes a real minus sign.
    """
    found = []
    for place, character in enumerate(text):
        following = text[place + 1 : place + 2]
        if character == "-" and following.isdigit():
            found.append("$-$")
        elif character in _SPECIAL:
            found.append(_SPECIAL[character])
        elif character.isascii() and character.isprintable():
            found.append(character)
        else:
            found.append(f"[U+{ord(character):04X}]")
    return "".join(found)


def _tabular(table: Table, columns: Sequence[int], first: str) -> str:
    headings = [table.headings[0], *(table.headings[k] for k in columns)]
    lines = [
        f"\\begin{{tabular}}{{@{{}}{first}{'r' * len(columns)}@{{}}}}",
        r"\toprule",
        " & ".join(map(_heading, headings)) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        name = escape(str(row[0]))
        cells = [
            name if first == "l" else rf"\raggedright {name}",
            *(_cell(row[k]) for k in columns),
        ]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _heading(text: str) -> str:
    """L_NL is a symbol with an index; all else is text."""
    return escape(text).replace(r"L\_NL", r"$L_\mathrm{NL}$")


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return escape(cell)
    text = "--" if cell.text == results.MISSING else _number(cell.text)
    detail = f"{{\\tiny {_number(cell.detail)}}}" if cell.detail else ""
    won = f"{{\\tiny ({cell.won})}}" if cell.won else ""
    return " ".join(filter(None, (text, detail, won)))


def _number(text: str) -> str:
    """Returns numbers as math, so that minus signs are minus signs."""
    signed = text.replace("-", "{-}").replace("+", "{+}").replace("±", r"\pm").replace(", ", r",\,")
    return f"${signed}$"


def _column_width(table: Table, k: int) -> float:
    """Estimates the width of a column in points, rather too large."""
    widths = [_CHARACTER * len(table.headings[k])]
    for row in table.rows:
        cell = row[k]
        if isinstance(cell, str):
            widths.append(_CHARACTER * len(cell))
        else:
            won = len(cell.won) + 3 if cell.won else 0
            widths.append(_CHARACTER * (len(cell.text) + 1) + _SMALL * (len(cell.detail) + won))
    return max(widths)
