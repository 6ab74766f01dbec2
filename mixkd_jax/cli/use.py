"""The modes that use a trained model: predict and export."""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import sys

from mixkd_jax.files import csv_cell, write_json, write_text
from mixkd_jax.model import ModelError, Prediction, load_model

_HEADINGS = ("file", "class", "probability", "margin", "error")


def predict(options: argparse.Namespace) -> str:
    """Predicts `--images` with `--model`, writes what it finds as CSV and JSON, and returns it."""
    import tabulate

    name = options.out or "predictions"
    images = options.images
    if "," in images and not os.path.exists(images):
        images = images.split(",")
    model = load_model(_model(options))
    rows = [_row(found) for found in model.predict_each(images, calibrated=options.calibrated)]
    wrong = [row[4] for row in rows if row[4]]
    if len(wrong) == len(rows):
        raise ModelError(f"--images: expected images that can be read, got none: {wrong[0]}")
    if wrong:
        print(f"{len(wrong)} of {len(rows)} images can't be read", file=sys.stderr)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_HEADINGS, *(map(_cell, row) for row in rows)])
    write_text(f"{name}.csv", text.getvalue())
    write_json(f"{name}.json", [dict(zip(_HEADINGS, row, strict=True)) for row in rows])
    shown = [row[:4] if row[1] else [row[0], _reason(row), None, None] for row in rows]
    table = tabulate.tabulate(shown, _HEADINGS[:4], floatfmt=".4f", disable_numparse=[0, 1])
    return f"{table}\n\nwritten: {name}.csv, {name}.json"


def export(options: argparse.Namespace) -> str:
    """Writes `--model` to `--out`, and returns where that is."""
    from mixkd_jax.export import export

    return f"exported: {export(_model(options), options.out)}"


def _model(options: argparse.Namespace) -> str:
    return f"{options.workdir}/{options.model}" if options.workdir else options.model


def _row(found: Prediction) -> list[str | float | None]:
    numbers = [None if math.isnan(x) else round(x, 6) for x in (found.probability, found.margin)]
    return [found.image, found.class_name or None, *numbers, found.error or None]


def _reason(row: list[str | float | None]) -> str:
    """Returns why an image has no prediction, without its name, which stands before it."""
    return str(row[4]).removeprefix(f"{row[0]}: ")


def _cell(value: str | float | None) -> str | float:
    return csv_cell(value) if isinstance(value, str) else "" if value is None else value
