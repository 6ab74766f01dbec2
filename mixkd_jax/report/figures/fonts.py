"""The font of the figures: what DejaVu Sans has for Latin, Greek, Cyrillic and mathematics.

It ships with matplotlib, so that figures look the same anywhere. A PDF holds the glyphs that it
needs, and finding these in the whole font takes longer than all else of a report.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile

from fontTools import subset
from matplotlib import font_manager

NAME = "mixkd DejaVu Sans"
WHOLE = "DejaVu Sans"
_BLOCKS = (range(0x20, 0x530), range(0x1E00, 0x2300))  # of Unicode


@functools.cache
def register() -> None:
    """Makes the font known to matplotlib under its name, in both of its weights."""
    folder = tempfile.mkdtemp(prefix="mixkd-fonts-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for weight in ("normal", "bold"):
        path = os.path.join(folder, f"{weight}.ttf")
        _write_small(_find(weight), path)
        font_manager.fontManager.addfont(path)


def drawable(text: str) -> str:
    r"""Returns text that the font has: what it lacks is written as in "\u{5b9f}".

    `style.svg` turns that back into the character, since a browser has other fonts.
    """
    return "".join(c if _has(c) else f"\\u{{{ord(c):x}}}" for c in text)


def _write_small(whole: str, path: str) -> None:
    options = subset.Options(glyph_names=True, notdef_outline=True, name_IDs=["*"])
    options.drop_tables += ["FFTM", "GDEF", "GPOS", "GSUB"]
    with subset.load_font(whole, options) as font:
        subsetter = subset.Subsetter(options)
        subsetter.populate(unicodes=_characters())
        subsetter.subset(font)
        for record in font["name"].names:
            if record.nameID in (1, 16):  # the family's
                record.string = NAME.encode(record.getEncoding())
        font.save(path)


@functools.cache
def _characters() -> frozenset[int]:
    known = font_manager.get_font(_find("normal")).get_charmap()
    return frozenset(code for block in _BLOCKS for code in block if code in known)


def _find(weight: str) -> str:
    properties = font_manager.FontProperties(family=WHOLE, weight=weight)
    return str(font_manager.findfont(properties))


def _has(character: str) -> bool:
    return character.isprintable() and ord(character) in _characters()
