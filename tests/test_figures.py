from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle

from mixkd_jax.report import figures

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
    line = figures.curve([records(epochs, row) for row in values], "loss")
    np.testing.assert_array_equal(line.epoch, epochs)
    np.testing.assert_allclose(line.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_array_equal(line.low, values.min(0))
    np.testing.assert_array_equal(line.high, values.max(0))


def test_curve_is_over_the_seeds_that_have_come_so_far():
    line = figures.curve([records([1, 2, 3], [1.0, 2.0, 3.0]), records([1, 2], [3.0, 6.0])], "loss")
    np.testing.assert_array_equal(line.mean, [2, 4, 3])
    np.testing.assert_array_equal(line.low, [1, 2, 3])
    np.testing.assert_array_equal(line.high, [3, 6, 3])


def test_curve_averages_neighbours_of_a_long_log():
    values = np.random.default_rng(0).random((3, 1000))
    epochs = np.arange(1000) / 100
    line = figures.curve([records(epochs, row) for row in values], "loss", points=100)
    windows = values.reshape(3, 100, 10).mean(2)
    np.testing.assert_allclose(line.epoch, epochs.reshape(100, 10).mean(1), rtol=1e-12)
    np.testing.assert_allclose(line.mean, windows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(line.low, windows.min(0), rtol=1e-12)
    np.testing.assert_allclose(line.high, windows.max(0), rtol=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_curve_has_a_gap_where_a_seed_is_not_finite(value):
    line = figures.curve([records([1, 2], [1.0, value]), records([1, 2], [3.0, 5.0])], "loss")
    np.testing.assert_array_equal(line.mean, [2, np.nan])
    np.testing.assert_array_equal(line.high, [3, np.nan])


def test_curve_of_nothing_is_empty():
    assert figures.curve([records([1], [1.0])], "kd").epoch.size == 0
    assert figures.curve([[]], "loss").mean.size == 0


def test_training_curves_draw_the_mean_and_the_band():
    values = np.random.default_rng(0).random((4, 3, 10)) + 0.1
    epochs = np.arange(1, 11)
    logs = {a: [records(epochs, v) for v in rows] for a, rows in zip(ARMS, values, strict=True)}
    axes = figures.training_curves(logs, "loss", "loss / nats", log=True).axes[0]
    assert axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss / nats")
    for i, line in enumerate(axes.lines):
        np.testing.assert_allclose(points(line)[:, 1], values[i].mean(0))
        band = np.asarray(axes.collections[i].get_paths()[0].vertices)[:, 1]
        np.testing.assert_allclose([band.min(), band.max()], [values[i].min(), values[i].max()])


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_log_axis_without_positive_values_is_drawn(value):
    logs = {"kd": [records([1, 2], [value, value])]}
    figure = figures.training_curves(logs, "loss", "loss / nats", log=True)
    assert figures.svg(figure, "a", "nothing to see").startswith("<svg")


def test_merged_bins_are_sums():
    rng = np.random.default_rng(0)
    data = rng.random((3, 3, 15))
    keys = ("count", "confidence", "correct")
    evaluations = [{"bins": dict(zip(keys, row.tolist(), strict=True))} for row in data]
    merged = figures.merge_bins(evaluations)
    for k, key in enumerate(keys):
        np.testing.assert_allclose(merged[key], data[:, k].sum(0), rtol=1e-12)


def test_reliability_draws_the_used_bins_and_their_shares():
    count = np.array([0.0, 2, 0, 6, 8])
    bins = {"count": count, "confidence": count * 0.3, "correct": np.array([0.0, 1, 0, 6, 2])}
    top, below = figures.reliability(bins, "kd", figures.arm_styles(ARMS)["kd"]).axes
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
    axes = figures.accuracy_and_ece(shown).axes[0]
    assert axes.get_legend_handles_labels()[1] == ["ce", "mixup", "mixkd", "teacher"]
    seeds, mean = axes.lines[:2]
    np.testing.assert_allclose(points(seeds), [(50, 10), (70, 20)])
    np.testing.assert_allclose(points(mean), [(60, 15)])
    np.testing.assert_allclose(points(axes.lines[-1]), [(90, 2)])


def test_arms_look_different_and_always_the_same():
    others = [f"arm{i}" for i in range(30)]
    looks = figures.arm_styles([*others, "kd"])
    assert looks["kd"] == figures.arm_styles(["kd"])["kd"]
    assert len({tuple(look.values()) for look in looks.values()}) == len(looks)
    standard = figures.arm_styles(ARMS).values()
    for part in ("color", "linestyle", "marker"):
        assert len({look[part] for look in standard}) == len(ARMS)


@pytest.mark.parametrize(
    "arms", [ARMS, [*ARMS, "mixkd_temperature_4", "logit_standardization", "dkd", "rld"]]
)
def test_legend_lies_within_the_figure(arms):
    logs = {arm: [records([1, 2], [1.0, 2.0])] for arm in arms}
    figure = figures.training_curves(logs, "loss", "loss / nats", log=True)
    FigureCanvasAgg(figure).draw()
    box, frame = figure.legends[0].get_window_extent(), figure.bbox
    assert frame.x0 <= box.x0 and box.x1 <= frame.x1
    assert figure.axes[0].get_window_extent().height > frame.height / 3


def test_svg_is_deterministic_and_takes_the_page_s_colour():
    def text():
        logs = {arm: [records([1, 2], [1.0, 2.0])] for arm in ARMS}
        figure = figures.training_curves(logs, "loss", "loss / nats", log=False)
        return figures.svg(figure, "p7", 'a "loss" <of> arms')

    first = text()
    assert first == text()
    assert figures.INK not in first and "currentColor" in first
    root = ElementTree.fromstring(first)
    assert root.get("aria-label") == 'a "loss" <of> arms'
    ids = [name for node in root.iter() if (name := node.get("id"))]
    assert ids and all(name.startswith("p7-") for name in ids)
    targets = [v for n in root.iter() for k, v in n.items() if k.endswith("href")]
    assert targets and {target.removeprefix("#") for target in targets} <= set(ids)
    style = next(node for node in root.iter() if node.tag.endswith("style"))
    assert style.text and style.text.startswith("#p7-figure_1 *")
