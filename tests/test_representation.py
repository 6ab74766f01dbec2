import numpy as np
import pytest

from mixkd_jax.evaluation.representation import linear_cka, straightness

RNG = np.random.default_rng(0)


def reference(x, y):
    """HSIC of centred linear kernels, as in the paper's equation 3."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    center = np.eye(len(x)) - 1 / len(x)
    k, m = center @ x @ x.T @ center, center @ y @ y.T @ center
    return np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))


@pytest.mark.parametrize("shape", [(50, 7, 5), (50, 7, 80), (6, 20, 30)])
def test_cka_is_that_of_the_kernels(shape):
    n, width_x, width_y = shape
    x = RNG.normal(3, 1, (n, width_x)).astype(np.float32)
    y = (x[:, :1] * 2 + RNG.normal(0, 1, (n, width_y))).astype(np.float32)
    assert linear_cka(x, y) == pytest.approx(reference(x, y), rel=1e-4)


def test_cka_ignores_rotation_scale_and_shift():
    x = RNG.normal(size=(40, 6)).astype(np.float32)
    rotation, _ = np.linalg.qr(RNG.normal(size=(6, 6)))
    assert linear_cka(x, (3 * x @ rotation + 5).astype(np.float32)) == pytest.approx(1, abs=1e-5)


def test_cka_of_constant_features_is_unknown():
    assert linear_cka(np.ones((5, 3), np.float32), RNG.normal(size=(5, 3))) is None


def test_straightness_is_chord_over_length():
    line = np.linspace(0, 1, 5)[:, None] * [3.0, 4.0]
    corner = np.array([[0, 0], [1, 0], [2, 0], [2, 1], [2, 2]], float)
    still, back = np.ones((5, 2)), np.array([[0, 0], [1, 0], [2, 0], [1, 0], [0, 0]], float)
    found = straightness(np.stack([line, corner, still, back], 1))
    np.testing.assert_allclose(found, [1, np.sqrt(8) / 4, np.nan, 0], rtol=1e-12)
