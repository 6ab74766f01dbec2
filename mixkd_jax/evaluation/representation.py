"""How alike two models' features are, and how straight features move between two inputs."""

from __future__ import annotations

import numpy as np


def linear_cka(x: np.ndarray, y: np.ndarray) -> float | None:
    """Linear centred kernel alignment of two models' features of the same inputs.

    ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) with Frobenius norms and centred columns: from 0 to 1, unchanged by
    rotating or scaling either. Biased upward where there are fewer inputs than features.

    Args:
      x: f[n, D1].
      y: f[n, D2].

    Returns:
      The number; None if all features of a model are constant.

    Reference:
      Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019,
      arXiv:1905.00414, equations 3 and 4.
    """
    x, y = (a - a.mean(0, dtype=np.float64).astype(a.dtype) for a in (x, y))
    size = max(len(x), 1)
    if min(x.shape[1], y.shape[1]) > size:  # the same number from matrices of n x n
        gram_x, gram_y = x @ x.T, y @ y.T
        cross = np.vdot(gram_x, gram_y)
        norms = np.linalg.norm(gram_x) * np.linalg.norm(gram_y)
    else:
        cross = np.sum(np.square(y.T @ x), dtype=np.float64)
        norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(cross / norms) if norms > 0 else None


def straightness(path: np.ndarray) -> np.ndarray:
    """Distance between both ends of each path over its length: 1 for a straight line.

    Args:
      path: f[G, m, D], m paths at G points.

    Returns:
      f64[m], from 0 to 1; NaN where a path has no length.
    """
    path = path.astype(np.float64)
    chord = np.linalg.norm(path[-1] - path[0], axis=-1)
    length = np.linalg.norm(np.diff(path, axis=0), axis=-1).sum(0)
    return np.divide(chord, length, out=np.full(chord.shape, np.nan), where=length > 0)
