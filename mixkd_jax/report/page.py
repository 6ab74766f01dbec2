"""A page that needs no other file: templates, filled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe

from mixkd_jax.report.figures import style
from mixkd_jax.report.panels import Panel

CONVENTIONS = (
    "Shares are in %, L_NL, KL and entropies in nats. ± is the sample standard deviation over"
    " seeds; [low, high] is a 95 % confidence interval over seeds (Student's t). Seeds vary the"
    " training, not the test images."
)


def fill(template: str, **values: Any) -> str:
    """Returns a template of this package, filled; texts of the run are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mixkd_jax.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(conventions=CONVENTIONS, **values)
    return text.encode("utf-8", "replace").decode("utf-8")  # no half characters


def inline(section: str, group: Sequence[Panel]) -> list[markupsafe.Markup]:
    """Returns figures as `<svg>` elements."""
    return [
        markupsafe.Markup(style.svg(panel.figure, f"{section}{number}", panel.description))
        for number, panel in enumerate(group)
    ]
