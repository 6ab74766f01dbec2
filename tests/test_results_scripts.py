"""The scripts beside the studies: what they measure, and their tables."""

import json

import analysed
import jax
import jax.numpy as jnp
import numpy as np
import paired
import pytest
import seeds
import softness
import unfamiliar
from scipy import special, stats

from mixkd_jax.evaluation.pairs import draw_pairs


def table_rows(text):
    return [" ".join(line.split()) for line in text.splitlines()][2:]


class Brightness:
    """A model of two classes that is the surer the brighter an image is."""

    image_shape = (32, 32, 3)

    def __init__(self, sign):
        self.sign = sign

    def probabilities(self, images):
        assert images.shape[1:] == self.image_shape
        bright = self.sign * jnp.mean(jnp.asarray(images, jnp.float32), (1, 2, 3)) / 100
        return jax.nn.softmax(jnp.stack([bright, jnp.zeros_like(bright)], -1))


@pytest.mark.parametrize("level", [0, 255])
def test_digits_are_told_from_images_by_their_confidence(level):
    digits = np.full((7, 8, 8, 1), 100, np.uint8)
    found = unfamiliar.scores(Brightness(1), np.full((5, 32, 32, 3), level, np.uint8), digits)
    expected = float(level == 255)  # a digit is less certain than a white image, not than black
    assert found["AUROC by confidence %"] == found["AUROC by entropy %"] == expected
    p = 1 / (1 + np.exp(-1.0))
    assert found["confidence %"] == pytest.approx(p, rel=1e-5)
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert found["entropy"] == pytest.approx(entropy, rel=1e-5)


def test_the_table_has_means_and_deviations():
    spread = {"mean": 0.5, "std": 0.012, "low": 0.4, "high": 0.6, "seeds": 3}
    found = {
        "teacher": {"share %": {**spread, "std": None}, "entropy": {"mean": None}},
        "kd": {"share %": spread, "entropy": spread},
    }
    rows = table_rows(seeds.markdown(found, {"share %": (100, 1), "entropy": (1, 3)}))
    assert rows == ["| teacher | 50.0 | |", "| kd | 50.0 ± 1.2 | 0.500 ± 0.012 |"]


class Pixels:
    """A model whose logits are the first pixels of an image, so that mixing is exact on logits."""

    def logits(self, images):
        return jnp.asarray(images, jnp.float32)[:, 0, :4, 0] / 20


def test_softness_is_taken_out_of_linearity():
    rng = np.random.default_rng()
    images = rng.integers(0, 256, (60, 8, 8, 1), np.uint8)
    labels = rng.integers(0, 4, 60)
    pairs = draw_pairs(rng, 60, labels.__getitem__, 50)
    found = softness.measure(Pixels(), images, pairs, 0.7)
    logits = images[:, 0, :4, 0] / 20

    def entropy(t):
        return np.mean(stats.entropy(special.softmax(logits / t, -1), axis=-1))

    def nonlinearity(t):
        lam = pairs.lam[:, None].astype(float)
        z_i, z_j = (logits[pairs.images[each]] for each in (pairs.i, pairs.j))
        p_i, p_j = (special.softmax(z / t, -1) for z in (z_i, z_j))
        p = special.softmax((lam * z_i + (1 - lam) * z_j) / t, -1)
        return np.mean(stats.entropy(lam * p_i + (1 - lam) * p_j, p, axis=-1))

    t = found["temperature"]
    assert found["entropy"] == pytest.approx(entropy(1), rel=1e-4)
    assert entropy(t) == pytest.approx(0.7, rel=1e-4)
    assert found["L_NL"] == pytest.approx(nonlinearity(1), rel=1e-3)
    assert found["L_NL at one entropy"] == pytest.approx(nonlinearity(t), rel=1e-3)


def test_tables_of_an_analysis_are_means_over_seeds():
    def analysis(value):
        at = {"nonlinearity": {"mean": value}, "entropy": {"mean": 0.5}, "outside": {"mean": value}}
        other = {name: {"mean": float("nan")} for name in at}
        count = [3, 1, 0, 0] + 16 * [1]
        means = [value, value + 0.4, None, None] + 16 * [0.25]
        bins = {"outside": {"count": count, "mean": means}}
        mixed = {
            "same": {"overall": at, "peak": at},
            "different": {"overall": other, "peak": other},
            "all": {"bins": bins},
        }
        severities = [value - severity / 100 for severity in range(6)]
        scores = {"mean": {"accuracy": severities, "overconfidence": severities}}
        splits = {
            name: {"mixed": mixed, "real": {"accuracy": {"mean": value + more}}}
            for name, more in (("train", 0.3), ("test", 0))
        }
        return {"splits": splits, "corruption": {"scores": scores}}

    analyses = [analysis(value) for value in (0.1, 0.2, 0.3)]
    cells = {}
    for name in analysed.TABLES:
        found = {"mixkd": analysed.summarized(analyses, name)}
        (row,) = table_rows(seeds.markdown(found, analysed.columns_of(name)))
        cells[name] = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells["pairs"] == [
        *("mixkd", "0.200 ± 0.100", "", "0.500 ± 0.000", "", "20.0 ± 10.0", ""),
    ]
    assert cells["outside"] == ["mixkd", "30.0 ± 10.0", *4 * ["25.0 ± 0.0"]]
    shown = ["20.0 ± 10.0", "19.0 ± 10.0", "17.0 ± 10.0", "15.0 ± 10.0"]
    assert cells["corruption"] == ["mixkd", *shown, *shown]
    assert cells["learned"] == ["mixkd", "50.0 ± 10.0", "20.0 ± 10.0", "30.0 ± 0.0"]


@pytest.mark.parametrize("seeds_of_arm", [1, 3])
def test_differences_have_an_interval_where_there_are_seeds(
    tmp_path, monkeypatch, capsys, seeds_of_arm
):
    accuracy = {"kd": [0.5, 0.6, 0.55][:seeds_of_arm], "ce": [0.4, 0.52, 0.5][:seeds_of_arm]}
    arms = {arm: {"accuracy": {"values": values}} for arm, values in accuracy.items()}
    (tmp_path / "results.json").write_text(json.dumps({"arms": arms}))
    monkeypatch.setattr("sys.argv", ["paired.py", str(tmp_path), "kd - ce"])
    paired.main()
    points = 100 * (np.array(accuracy["kd"]) - accuracy["ce"])
    expected = f"kd - ce: {points.mean():+.1f}"
    if seeds_of_arm > 1:
        low, high = stats.t.interval(0.95, 2, points.mean(), stats.sem(points))
        expected += f" [{low:+.1f}, {high:+.1f}]"
    assert capsys.readouterr().out == f"{expected}, {seeds_of_arm} seeds\n"
