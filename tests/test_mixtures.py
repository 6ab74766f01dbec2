import numpy as np
import pytest
import run_folders
from scipy import stats

from mixkd_jax.evaluation import analysis_figures


@pytest.fixture(scope="module")
def analyses(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    runs = ["teacher", *(f"arms/{arm}/{seed}" for arm in ("ce", "mixkd") for seed in range(3))]
    found = run_folders.add_analyses(root, runs)
    by_arm = {a: [found[f"arms/{a}/{s}"] for s in range(3)] for a in ("ce", "mixkd")}
    return {"teacher": [found["teacher"]], **by_arm}


def test_band_is_over_seeds_or_over_pairs():
    means, errors = np.random.default_rng(0).random((2, 4, 7))
    seeds = [{"mean": m.tolist(), "stderr": e.tolist()} for m, e in zip(means, errors, strict=True)]
    found = analysis_figures.band(seeds)
    half = stats.t.ppf(0.975, 3) * stats.sem(means)
    np.testing.assert_allclose(found.mean, means.mean(0))
    np.testing.assert_allclose(found.high - found.low, 2 * half)
    one = analysis_figures.band(seeds[:1])
    np.testing.assert_allclose(one.high - one.low, 2 * 1.96 * errors[0])
    unknown = analysis_figures.band([{"mean": [1.0, None], "stderr": [None, None]}])
    assert unknown.mean[0] == 1 and np.isnan(unknown.mean[1])


def test_lambda_curves_draw_the_bins(analyses):
    figure = analysis_figures.lambda_curves(analyses, "kl_teacher", "KL / nats")
    (axes,) = figure.axes
    # The teacher has no KL from itself.
    assert axes.get_legend_handles_labels()[1] == ["ce", "mixkd"]
    mixed = [seed["splits"]["test"]["mixed"]["all"] for seed in analyses["ce"]]
    bins = [found["bins"]["kl_teacher"]["mean"] for found in mixed]
    line = np.asarray(axes.lines[0].get_xydata())
    np.testing.assert_allclose(line[:, 0], (np.arange(20) + 0.5) / 20)
    np.testing.assert_allclose(line[:, 1], np.mean(bins, 0))


def test_outside_pair_draws_the_peak(analyses):
    top, below = analysis_figures.outside_pair(analyses).axes
    peak = [
        [s["splits"]["test"]["mixed"]["different"]["peak"] for s in seeds]
        for seeds in analyses.values()
    ]
    heights = [bar.get_height() for bar in top.patches]  # pyright: ignore[reportAttributeAccessIssue]
    expected = [np.mean([p["outside"]["mean"] for p in seeds]) for seeds in peak]
    np.testing.assert_allclose(heights, expected)
    drawn = np.asarray(below.lines[0].get_xydata())[:, 1]
    np.testing.assert_allclose(drawn, [np.mean([p["structure"]["mean"] for p in s]) for s in peak])


def test_reliability_intervals_are_means_over_the_seeds_that_have_the_bin():
    def analysis(accuracy, low, high):
        diagram = {"accuracy": accuracy, "low": low, "high": high}
        return {"calibration": {"reliability": diagram}}

    seeds = [
        analysis([None, 0.5, 0.8], [None, 0.4, 0.6], [None, 0.6, 0.9]),
        analysis([None, None, 0.6], [None, None, 0.2], [None, None, 0.7]),
    ]
    found = analysis_figures.reliability_intervals(seeds)
    np.testing.assert_allclose(found.mean, [np.nan, 0.5, 0.7])
    np.testing.assert_allclose(found.low, [np.nan, 0.4, 0.4])
    np.testing.assert_allclose(found.high, [np.nan, 0.6, 0.8])


def test_risk_coverage_draws_the_mean_over_seeds(analyses):
    (axes,) = analysis_figures.risk_coverage(analyses).axes
    curves = [s["calibration"]["risk_coverage"] for s in analyses["mixkd"]]
    line = np.asarray(axes.lines[2].get_xydata())
    np.testing.assert_allclose(line[:, 0], 100 * np.array(curves[0]["coverage"]))
    np.testing.assert_allclose(line[:, 1], 100 * np.mean([c["risk"] for c in curves], 0))


def test_corruption_draws_the_mean_over_seeds(analyses):
    accuracy, over = analysis_figures.corruption(analyses).axes
    for axes, score in ((accuracy, "accuracy"), (over, "overconfidence")):
        scores = [s["corruption"]["scores"]["mean"][score] for s in analyses["mixkd"]]
        line = np.asarray(axes.lines[2].get_xydata())
        np.testing.assert_allclose(line[:, 0], range(6))
        np.testing.assert_allclose(line[:, 1], 100 * np.mean(scores, 0))
