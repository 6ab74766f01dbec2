import numpy as np
import pytest
import run_folders

from mixkd_jax.config import ConfigError
from mixkd_jax.report import compare, sweeps, teachers
from mixkd_jax.report.figures import tradeoff

RNG = np.random.default_rng(0)


def add(root, name, temperature, metrics, teacher=0.0, **config):
    """A run of kd and mixkd whose means are those of `metrics`: (accuracy, ece, overconfidence)."""
    values = {"loss": {"temperature": temperature}, "arms": ["kd", "mixkd"], "seeds": [0, 1]}
    run_folders.make(root / name, arms=("kd", "mixkd"), seeds=2, config=values | config)
    for arm, numbers in metrics.items():
        for metric, mean in zip(("accuracy", "ece", "overconfidence"), numbers, strict=True):
            run_folders.set_metric(root / name, arm, metric, [mean - 0.001, mean + 0.001])
    run_folders.change(
        root / name / "teacher/evaluation.json", "metrics", "overconfidence", teacher
    )
    return root / name


def sweep(root, mixkd):
    """Three temperatures; the ECE of kd varies by 2 points."""
    kd = [(0.80, 0.05, 0), (0.81, 0.06, 0), (0.82, 0.07, 0)]
    return [
        add(root, f"T{t}", t, {"kd": k, "mixkd": m})
        for t, k, m in zip(("1", "2", "8"), kd, mixkd, strict=True)
    ]


def judged(runs):
    return {claim.name: claim for claim in compare.judge(compare.read_runs(runs))}


@pytest.mark.parametrize(
    ("mixkd", "expected"),
    [
        ([(0.80, 0.02, 0), (0.82, 0.05, 0), (0.83, 0.09, 0)], "supported"),
        ([(0.80, 0.05, 0), (0.82, 0.055, 0), (0.83, 0.06, 0)], "not supported"),  # varies less
        ([(0.80, 0.09, 0), (0.82, 0.05, 0), (0.83, 0.02, 0)], "not supported"),  # no trade
    ],
)
def test_temperature(tmp_path, mixkd, expected):
    runs = sweep(tmp_path, mixkd)
    found = judged(runs)["C6"]
    assert found.verdict == expected
    assert "kd: rank correlation 1.00 [1.00, 1.00], ECE varies by 2.00 [2.00, 2.00]" in found.shows
    assert judged(runs[:2])["C6"].verdict == "not testable here"


def test_std_is_no_temperature_of_the_scale(tmp_path):
    runs = sweep(tmp_path, [(0.8, 0.02, 0), (0.82, 0.05, 0), (0.83, 0.09, 0)])
    far = add(tmp_path, "Tstd", "std", {"kd": (0.7, 0.5, 0), "mixkd": (0.7, 0.1, 0)})
    assert judged([*runs, far])["C6"] == judged(runs)["C6"]
    assert judged([*runs[:2], far])["C6"].verdict == "not testable here"
    sweep_ = sweeps.across(compare.read_runs([*runs, far]), sweeps.TEMPERATURE)
    paths = tradeoff.trade(sweep_).axes[0].lines
    assert [len(np.asarray(line.get_xydata())) for line in paths] == [3, 3]
    assert len(tradeoff.over_temperature(sweep_).axes[1].get_xticklabels()) == 4


def test_sweep_draws_means_and_intervals_over_seeds(tmp_path):
    runs = sweep(tmp_path, [(0.8, 0.02, 0), (0.82, 0.05, 0), (0.83, 0.09, 0)])
    found = sweeps.across(compare.read_runs(runs), sweeps.TEMPERATURE)
    accuracy, ece = tradeoff.over_temperature(found).axes
    for axes, means in ((accuracy, [80, 82, 83]), (ece, [2, 5, 9])):
        np.testing.assert_allclose(np.asarray(axes.lines[1].get_xydata())[:, 1], means)
        # Two seeds, 0.1 points to both sides: the standard error is 0.1, Student's t 12.706.
        ends = np.array(axes.collections[1].get_segments())[:, :, 1]  # pyright: ignore[reportAttributeAccessIssue]
        np.testing.assert_allclose(ends, np.array(means)[:, None] + [[-1.2706, 1.2706]], atol=1e-4)
    assert [label.get_text() for label in ece.get_xticklabels()] == ["1", "2", "8"]


def test_runs_that_differ_in_more_are_no_sweep(tmp_path):
    runs = sweep(tmp_path, [(0.8, 0.02, 0), (0.82, 0.05, 0), (0.83, 0.09, 0)])
    run_folders.write_json(runs[0] / "config.json", {"config": {"seed": 5}, "command": "x"})
    assert judged(runs)["C6"].verdict == "not testable here"


@pytest.mark.parametrize(
    ("slope", "expected"), [(1.0, "supported"), (0.0, "not supported"), (-1, "not supported")]
)
def test_teachers(tmp_path, slope, expected):
    teachers = np.linspace(-0.1, 0.1, 6)
    runs = [
        add(tmp_path, f"run{k}", "2", {"mixkd": (accuracy, 0.1, slope * t + noise)}, teacher=t)
        for k, (t, accuracy, noise) in enumerate(
            zip(teachers, (0.8, 0.7, 0.9, 0.75, 0.85, 0.7), RNG.normal(0, 0.005, 6), strict=True)
        )
    ]
    assert judged(runs)["C5"].verdict == expected
    assert judged(runs[:3])["C5"].verdict == "not testable here"


def test_partial_correlation_is_that_of_the_textbook():
    x, y, z = RNG.normal(size=(3, 40))
    x, y = x + z, y + z - 0.5 * x
    xy, xz, yz = (np.corrcoef(a, b)[0, 1] for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert teachers.partial_correlation(x, y, z) == pytest.approx(expected)


def test_fields_that_differ():
    folders = {}
    for name, config in (("a", {"x": {"y": 1}, "z": 2}), ("b", {"x": {"y": 3}, "z": 2, "w": 0})):
        folders[name] = type("Folder", (), {"config": config})()
    assert sweeps.differing(folders) == {"w": [None, 0], "x.y": [1, 3]}


def test_page_and_files(tmp_path):
    runs = sweep(tmp_path, [(0.80, 0.02, 0), (0.82, 0.05, 0), (0.83, 0.09, 0)])
    out = tmp_path / "out"

    def made():
        compare.write(runs, out)
        return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    files = made()
    assert files == made()
    assert {"compare.html", "results.csv", "fields.tex", "trade.png"} <= files.keys()
    text = files["compare.html"].decode()
    for run in ("T1", "T2", "T8"):
        assert f"{run}: mixkd" in text
    assert "loss.temperature" in text and text.count("<svg") == 2
    assert "seeds" not in files["fields.csv"].decode()


def test_runs_are_called_by_what_tells_them_apart(tmp_path):
    for name in ("a/run", "b/run"):
        run_folders.make(tmp_path / name, arms=(), seeds=0)
    assert list(compare.read_runs([tmp_path / "a/run", tmp_path / "b/run"])) == ["a/run", "b/run"]


def test_what_is_no_comparison_is_refused(tmp_path):
    run_folders.make(tmp_path / "a", arms=(), seeds=0)
    with pytest.raises(ConfigError, match="--runs: expected two run folders or more"):
        compare.read_runs([tmp_path / "a"])
    with pytest.raises(ConfigError, match=r"--runs: .*config\.json"):
        compare.read_runs([tmp_path / "a", tmp_path / "b"])


def test_runs_that_differ_in_the_teacher_s_temperature_alone_decide_transfer(tmp_path):
    for name, gap in (("a", 0.1), ("b", 0.02), ("c", -0.05)):
        values = {"loss": {"teacher_temperature": {"a": 0.5, "b": 1, "c": 2}[name]}}
        add(tmp_path, name, "2", {"mixkd": (0.8, 0.1, 0.7 * gap)}, **values)
        for seed in range(2):
            path = tmp_path / name / f"arms/mixkd/{seed}/evaluation.json"
            run_folders.change(path, "teacher", {"accuracy": 0.8, "overconfidence": gap})
    found = judged([tmp_path / name for name in "abc"])["C5"]
    assert found.verdict == "supported" and "slope 0.70 [0.70, 0.70]" in found.shows


def test_every_claim_of_each_run_is_shown(tmp_path):
    runs = sweep(tmp_path, [(0.8, 0.02, 0), (0.82, 0.05, 0), (0.83, 0.09, 0)])
    compare.write(runs, tmp_path / "out")
    rows = (tmp_path / "out/tables/claims.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["claim", "C1", "C2", "C3", "C4", "C5", "C6"]


def test_sweep_is_joined_and_drawn_at_the_means(tmp_path):
    runs = sweep(tmp_path, [(0.80, 0.02, 0), (0.82, 0.05, 0), (0.83, 0.09, 0)])
    found = sweeps.across(compare.read_runs(runs), sweeps.TEMPERATURE)
    axes = tradeoff.trade(found).axes[0]
    mixkd = axes.lines[1]
    np.testing.assert_allclose(np.asarray(mixkd.get_xydata()), [(80, 2), (82, 5), (83, 9)])
    assert [text.get_text() for text in axes.texts[3:]] == ["1", "2", "8"]
