import numpy as np
import pytest

from mixkd_jax.evaluation.pairs import draw_pairs

LABELS = np.random.default_rng(0).integers(0, 4, 30)


def draw(seed, labels, num_pairs):
    rng = np.random.default_rng(seed)
    return draw_pairs(rng, len(labels), lambda indices: labels[indices], num_pairs)


def test_pairs_are_distinct_and_never_of_one_image_with_itself():
    pairs = draw(1, LABELS, 200)
    together = pairs.images[pairs.i] * 1000 + pairs.images[pairs.j]
    assert len(np.unique(together)) == 200
    assert (pairs.i != pairs.j).all()
    assert sorted(pairs.images) == list(range(30))
    np.testing.assert_array_equal(pairs.labels, LABELS[pairs.images])
    np.testing.assert_array_equal(
        pairs.same, LABELS[pairs.images[pairs.i]] == pairs.labels[pairs.j]
    )


def test_every_image_is_used_about_equally():
    pairs = draw(1, LABELS, 200)
    times = np.bincount(pairs.i, minlength=30) + np.bincount(pairs.j, minlength=30)
    assert times.max() - times.min() <= 2


def test_a_large_split_is_sampled():
    pairs = draw(1, np.zeros(1000, int), 20)
    assert len(pairs.images) == len(np.unique(pairs.images)) == len(pairs.i) == 20


def test_no_more_pairs_than_there_are():
    pairs = draw(1, LABELS[:5], 1000)
    assert len(pairs.i) == len(pairs.j) == len(pairs.lam) == 20


def test_lambda_is_uniform():
    lam = np.sort(draw(1, np.zeros(5000, int), 5000).lam)
    # Kolmogorov's distance: 1.63 / sqrt(n) is its 99th percentile.
    assert np.abs(lam - np.arange(5000) / 5000).max() < 1.63 / np.sqrt(5000)


def test_the_seed_decides():
    first, again, other = (draw(s, LABELS, 50) for s in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.lam != other.lam).any()


def test_a_path_has_every_lambda_for_each_pair():
    pairs = draw(1, LABELS, 10)
    path = pairs.part(0, 3)[1].on_path(np.array([0, 0.5, 1]))
    for side, own in ((path.i, pairs.i), (path.j, pairs.j)):
        images = path.images[side].reshape(3, 3)
        np.testing.assert_array_equal(images, [pairs.images[own[:3]]] * 3)
    np.testing.assert_array_equal(path.lam.reshape(3, 3), np.repeat([[0], [0.5], [1]], 3, 1))


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="total: expected at least two images"):
        draw(1, LABELS[:1], 5)
    with pytest.raises(ValueError, match="num_pairs: expected at least 2, got 1"):
        draw(1, LABELS, 1)


def test_a_part_has_its_pairs_and_their_images_alone():
    pairs = draw(1, LABELS, 200)
    where, part = pairs.part(40, 75)
    for own, whole in ((part.i, pairs.i), (part.j, pairs.j)):
        np.testing.assert_array_equal(part.images[own], pairs.images[whole[40:75]])
        np.testing.assert_array_equal(where[own], whole[40:75])
    np.testing.assert_array_equal(part.lam, pairs.lam[40:75])
    np.testing.assert_array_equal(part.labels, LABELS[part.images])
    assert len(part.images) == len(where) == len(np.unique(where))
    assert set(part.i) | set(part.j) == set(range(len(where)))
