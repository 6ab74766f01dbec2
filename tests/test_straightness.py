import numpy as np

from mixkd_jax.evaluation.between import straightness


def test_straightness_is_chord_over_length():
    line = np.linspace(0, 1, 5)[:, None] * [3.0, 4.0]
    corner = np.array([[0, 0], [1, 0], [2, 0], [2, 1], [2, 2]], float)
    still, back = np.ones((5, 2)), np.array([[0, 0], [1, 0], [2, 0], [1, 0], [0, 0]], float)
    found = straightness(np.stack([line, corner, still, back], 1))
    np.testing.assert_allclose(found, [1, np.sqrt(8) / 4, np.nan, 0], rtol=1e-12)
