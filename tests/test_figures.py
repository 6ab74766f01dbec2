import colorsys
import html
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from etils import epath
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mixkd_jax.report.figures import learning, reliability, style, tradeoff

ARMS = ["ce", "mixup", "kd", "mixkd"]


def records(epochs, values, name="loss"):
    return [{"epoch": e, name: v} for e, v in zip(epochs, values, strict=True)]


def points(line):
    return np.asarray(line.get_xydata())


def bars(axes):
    return np.array([p.get_bbox().bounds for p in axes.patches if isinstance(p, Rectangle)])


def test_curve_is_mean_and_range_over_seeds():
    values = np.random.default_rng(0).random((5, 20))
    epochs = np.arange(20) / 4
    epoch, line = learning.curve([records(epochs, row) for row in values], "loss")
    np.testing.assert_array_equal(epoch, epochs)
    np.testing.assert_allclose(line.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_array_equal(line.low, values.min(0))
    np.testing.assert_array_equal(line.high, values.max(0))


def test_curve_is_over_the_seeds_that_have_come_so_far():
    epoch, line = learning.curve(
        [records([1, 2, 3], [1.0, 2.0, 3.0]), records([1, 2], [3.0, 6.0])], "loss"
    )
    np.testing.assert_array_equal(line.mean, [2, 4, 3])
    np.testing.assert_array_equal(line.low, [1, 2, np.nan])  # a band needs two seeds
    np.testing.assert_array_equal(line.high, [3, 6, np.nan])


def test_curve_averages_neighbours_of_a_long_log():
    values = np.random.default_rng(0).random((3, 1000))
    epochs = np.arange(1000) / 100
    epoch, line = learning.curve([records(epochs, row) for row in values], "loss", points=100)
    windows = values.reshape(3, 100, 10).mean(2)
    np.testing.assert_allclose(epoch, epochs.reshape(100, 10).mean(1), rtol=1e-12)
    np.testing.assert_allclose(line.mean, windows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(line.low, windows.min(0), rtol=1e-12)
    np.testing.assert_allclose(line.high, windows.max(0), rtol=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_curve_has_a_gap_where_a_seed_is_not_finite(value):
    epoch, line = learning.curve(
        [records([1, 2], [1.0, value]), records([1, 2], [3.0, 5.0])], "loss"
    )
    np.testing.assert_array_equal(line.mean, [2, np.nan])
    np.testing.assert_array_equal(line.high, [3, np.nan])


def test_curve_of_nothing_is_empty():
    assert learning.curve([records([1], [1.0])], "kd")[0].size == 0
    assert learning.curve([[]], "loss")[1].mean.size == 0


def test_training_curves_draw_the_mean_and_the_band():
    values = np.random.default_rng(0).random((4, 3, 10)) + 0.1
    epochs = np.arange(1, 11)
    logs = {a: [records(epochs, v) for v in rows] for a, rows in zip(ARMS, values, strict=True)}
    axes = learning.learning_curves(logs, "loss", "loss / nats", log=True).axes[0]
    assert axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss / nats, logarithmic")
    for i, line in enumerate(axes.lines):
        np.testing.assert_allclose(points(line)[:, 1], values[i].mean(0))
        band = np.asarray(axes.collections[i].get_paths()[0].vertices)[:, 1]
        np.testing.assert_allclose([band.min(), band.max()], [values[i].min(), values[i].max()])


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_log_axis_without_positive_values_is_drawn(value):
    logs = {"kd": [records([1, 2], [value, value])]}
    figure = learning.learning_curves(logs, "loss", "loss / nats", log=True)
    assert style.svg(figure, "a", "nothing to see").startswith("<svg")


def test_a_diagram_adds_up_the_bins():
    data = np.random.default_rng(0).random((3, 3, 15))
    keys = ("count", "confidence", "correct")
    evaluations = [{"bins": dict(zip(keys, row.tolist(), strict=True))} for row in data]
    found = reliability.diagram(evaluations, [])
    assert found.limits is None
    for k, key in enumerate(keys):
        np.testing.assert_allclose(found.bins[key], data[:, k].sum(0), rtol=1e-12)


def test_reliability_draws_the_used_bins_and_their_shares():
    count = np.array([0.0, 2, 0, 6, 8])
    bins = {"count": count, "confidence": count * 0.3, "correct": np.array([0.0, 1, 0, 6, 2])}
    shown = reliability.Diagram(bins, None)
    figure = reliability.diagrams({"ce": shown, "kd": shown}, style.looks(ARMS))
    assert [axes.get_title() for axes in figure.axes[:2]] == ["ce", "kd"]
    top, below = figure.axes[1], figure.axes[3]
    np.testing.assert_allclose(points(top.lines[1]), [(0.3, 0.5), (0.3, 1), (0.3, 0.25)])
    used = [(0.2, 0, 0.2, 0.5), (0.6, 0, 0.2, 1), (0.8, 0, 0.2, 0.25)]
    np.testing.assert_allclose(bars(top), used)
    np.testing.assert_allclose(bars(below)[:, 3], count / 16)


def test_accuracy_and_ece_shows_seeds_means_and_teacher():
    def metric(*values):
        return {"mean": float(np.mean(values)), "std": None, "values": list(values)}

    arms = {arm: {"accuracy": metric(0.5, 0.7), "ece": metric(0.1, 0.2)} for arm in ARMS}
    arms["kd"]["ece"] = {"mean": None, "std": None, "values": [0.1, None]}
    shown = {"teacher": {"accuracy": 0.9, "ece": 0.02}, "arms": arms}
    axes = tradeoff.accuracy_and_ece(shown).axes[0]
    assert axes.get_legend_handles_labels()[1] == ["ce", "mixup", "mixkd", "teacher"]
    seeds, mean = axes.lines[:2]
    np.testing.assert_allclose(points(seeds), [(50, 10), (70, 20)])
    np.testing.assert_allclose(points(mean), [(60, 15)])
    np.testing.assert_allclose(points(axes.lines[-1]), [(90, 2)])
    assert axes.get_yscale() == "log"  # 20 is ten times 2
    shown["teacher"]["ece"] = 0.05
    axes = tradeoff.accuracy_and_ece(shown).axes[0]
    assert axes.get_yscale() == "linear" and axes.get_ylim()[0] == 0


def test_of_very_many_arms_a_key_below_tells_the_numbers():
    options = [f"mixkd:temperature={t}" for t in range(9)]
    arms = {
        arm: {"accuracy": {"mean": 0.5 + k / 100, "values": []}, "ece": {"mean": 0.1, "values": []}}
        for k, arm in enumerate([*ARMS, *options])
    }
    figure = tradeoff.accuracy_and_ece({"teacher": {}, "arms": arms})
    named, key = figure.legends
    assert [text.get_text() for text in named.get_texts()] == ARMS
    told = [text.get_text().split("  ") for text in key.get_texts()]
    assert told == [[str(n), arm] for n, arm in enumerate(options, 1)]
    numbers: list[Any] = list(figure.axes[0].texts)
    for (number, arm), text in zip(told, numbers, strict=True):
        assert text.get_text() == number
        assert text.xy == pytest.approx((100 * arms[arm]["accuracy"]["mean"], 10))
    few = tradeoff.accuracy_and_ece({"teacher": {}, "arms": {arm: arms[arm] for arm in ARMS}})
    assert len(few.legends) == 1 and not few.axes[0].texts


def test_a_long_legend_makes_a_figure_taller():
    def height(arms):
        figure = style.create()
        axes = figure.add_subplot()
        for arm in arms:
            axes.plot([0], [0], label=arm)
        style.legend(figure, axes)
        return figure.get_figheight()

    plain = style.create().get_figheight()
    assert height(ARMS) == plain
    long = [f"mixkd:teacher_temperature={t}" for t in range(5)]  # one a row
    assert height(long[:3]) == plain
    assert height(long[:4]) < height(long)
    assert height(long) - plain == pytest.approx(2 * (height(long[:4]) - plain))


def test_arms_look_different_and_always_the_same():
    others = [f"arm{i}" for i in range(30)]
    looks = style.looks([*others, "kd"])
    assert looks["kd"] == style.looks(["kd"])["kd"]
    assert len({tuple(look.values()) for look in looks.values()}) == len(looks)
    standard = [style.looks(ARMS)[arm] for arm in ARMS]
    for part in ("color", "linestyle", "marker"):
        assert len({look[part] for look in standard}) == len(ARMS)
    assert style.looks(["teacher", "kd"])["teacher"]["color"] == style.INK


def test_options_of_a_base_have_shades_of_its_colour():
    arms = [f"{base}:temperature={t}" for base in ("kd", "mixkd") for t in range(9)]
    looks = style.looks(["kd", "mixkd", *arms])
    assert len({tuple(look.values()) for look in looks.values()}) == len(looks)
    for base in ("kd", "mixkd"):
        hue = colorsys.rgb_to_hsv(*to_rgb(looks[base]["color"]))[0]
        for arm in arms:
            same = abs(colorsys.rgb_to_hsv(*to_rgb(looks[arm]["color"]))[0] - hue) < 0.01
            assert same == arm.startswith(f"{base}:")


def test_of_very_many_arms_those_without_options_are_drawn():
    options = [f"mixkd:temperature={t}" for t in range(9)]
    assert style.drawn([*ARMS, *options]) == ARMS
    assert style.drawn(options) == options[: style.MOST_ARMS]
    assert style.drawn([*ARMS, *options[:4]]) == [*ARMS, *options[:4]]


@pytest.mark.parametrize(
    ("low", "high"), [(7.6, 9.9), (0.31, 0.38), (2, 19), (0.011, 0.9), (1.1, 1.9), (1, 1e5)]
)
def test_a_log_axis_has_several_labels(low, high):
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], [low, high])
    style.log_axis(axes)
    FigureCanvasAgg(figure).draw()
    bottom, top = axes.get_ylim()
    labels = [
        label.get_text()
        for place, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        if bottom <= place <= top
    ]
    assert len(set(labels)) >= 3 and all(labels)


@pytest.mark.parametrize("name", ["a$b$", "$\\frac{1}", "実験", "\\u{3c}script", "a_b^c"])
def test_any_name_can_be_drawn(name, tmp_path):
    figure = learning.learning_curves(
        {name: [records([1, 2], [1.0, 2.0])]}, "loss", "loss / nats", log=True
    )
    text = style.svg(figure, "a", name)
    assert html.escape(name, quote=False) in "".join(
        ElementTree.fromstring(text).itertext()
    ).replace("&", "&amp;").replace("<", "&lt;")
    style.save(figure, epath.Path(tmp_path / "figure"))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".pdf", ".png"]


def test_figures_are_a_column_wide_with_fonts_of_8_points():
    logs = {"kd": [records([1, 2], [1.0, 2.0])]}
    figure = learning.learning_curves(logs, "loss", "loss / nats", log=True)
    assert figure.get_figwidth() == 3.3
    axes = figure.axes[0]
    texts = [axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels()]
    assert {text.get_fontsize() for text in [*texts, *figure.legends[0].get_texts()]} == {8.0}


@pytest.mark.parametrize(
    "arms", [ARMS, [*ARMS, "mixkd_temperature_4", "logit_standardization", "dkd", "rld"]]
)
def test_legend_lies_within_the_figure(arms):
    logs = {arm: [records([1, 2], [1.0, 2.0])] for arm in arms}
    figure = learning.learning_curves(logs, "loss", "loss / nats", log=True)
    FigureCanvasAgg(figure).draw()
    box, frame = figure.legends[0].get_window_extent(), figure.bbox
    assert frame.x0 <= box.x0 and box.x1 <= frame.x1
    assert figure.axes[0].get_window_extent().height > frame.height / 3


def test_a_legend_is_read_row_by_row_and_no_row_is_almost_empty():
    arms = ["teacher", "ce", "mixup", "kd", "mixkd"]
    with matplotlib.rc_context(style.STYLE):
        figure = style.create(width=3.6)
        axes = figure.add_subplot()
        for arm in arms:
            axes.plot([0, 1], label=arm)
        style.legend(figure, axes)
        FigureCanvasAgg(figure).draw()
    texts = figure.legends[0].get_texts()
    at = {text.get_text(): text.get_window_extent() for text in texts}
    rows = {round(box.y0) for box in at.values()}
    read = sorted(at, key=lambda arm: (-round(at[arm].y0), at[arm].x0))
    assert read == arms and len(rows) == 2
    assert sum(round(box.y0) == min(rows) for box in at.values()) == 2


def test_a_share_s_axis_shows_where_the_lines_are():
    logs = {"ce": [records([1, 2], [0.70, 0.75])]}
    low, high = learning.learning_curves(logs, "loss", "accuracy / %", log=False).axes[0].get_ylim()
    assert 65 < low < 70 and 75 < high < 80


def test_svg_is_deterministic_and_takes_the_page_s_colour():
    def text():
        logs = {arm: [records([1, 2], [1.0, 2.0])] for arm in ARMS}
        figure = learning.learning_curves(logs, "loss", "loss / nats", log=False)
        return style.svg(figure, "p7", 'a "loss" <of> arms')

    first = text()
    assert first == text()
    assert style.INK not in first and "currentColor" in first
    root = ElementTree.fromstring(first)
    assert root.get("aria-label") == 'a "loss" <of> arms'
    ids = [name for node in root.iter() if (name := node.get("id"))]
    assert ids and all(name.startswith("p7-") for name in ids)
    targets = [v for n in root.iter() for k, v in n.items() if k.endswith("href")]
    assert targets and {target.removeprefix("#") for target in targets} <= set(ids)
    sheet = next(node for node in root.iter() if node.tag.endswith("style"))
    assert sheet.text and sheet.text.startswith("#p7-figure_1 *")
