import io

import numpy as np
import pytest
from PIL import Image
from scipy import special

from mixkd_jax.data.types import Split
from mixkd_jax.evaluation import corruptions

RNG = np.random.default_rng(0)


def images(size=16, channels=3, count=4):
    return RNG.integers(0, 256, (count, size, size, channels)).astype(np.uint8)


def corrupt(given, name, severity):
    return corruptions.corrupt(given, name, severity, np.random.default_rng(3))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 70])
@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_severity_moves_images_further(name, size, channels):
    # Smooth images: noise alone would hide what JPEG and blur do.
    grid = np.linspace(0, 3 * np.pi, size)
    smooth = 0.35 + 0.3 * np.sin(grid)[:, None] * np.sin(2 * grid)[None]
    given = np.repeat((255 * np.clip(smooth, 0, 1)).astype(np.uint8)[None, :, :, None], channels, 3)
    moved = [corrupt(given, name, s) for s in range(1, 6)]
    assert all(m.shape == given.shape and m.dtype == np.uint8 for m in moved)
    distances = [np.abs(m - given.astype(float)).mean() for m in moved]
    assert distances[0] > 0 and distances[-1] > 1.3 * distances[0]
    assert all(a <= b * 1.05 for a, b in zip(distances[:-1], distances[1:], strict=True))


def test_noise_has_its_strength_and_follows_the_seed():
    given = np.full((20, 16, 16, 3), 128, np.uint8)
    first, again = (corrupt(given, "gaussian_noise", 5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.astype(float).std() == pytest.approx(255 * 0.10, rel=0.03)
    large = corrupt(np.full((2, 64, 64, 3), 128, np.uint8), "gaussian_noise", 1)
    assert large.astype(float).std() == pytest.approx(255 * 0.08, rel=0.03)


def test_blur_is_a_gaussian():
    given = np.zeros((1, 15, 15, 1), np.uint8)
    given[0, 7, 7] = 255
    d = np.arange(15) - 7
    kernel = np.exp(-(d**2) / 2) * (np.abs(d) <= 4)
    expected = 255 * np.outer(kernel, kernel) / kernel.sum() ** 2
    np.testing.assert_allclose(corrupt(given, "gaussian_blur", 5)[0, :, :, 0], expected, atol=0.51)


def test_contrast_shrinks_towards_each_channel_s_mean():
    given = images()
    mean = given.mean((1, 2), keepdims=True)
    expected = mean + 0.3 * (given - mean)
    np.testing.assert_allclose(corrupt(given, "contrast", 4), expected, atol=0.51)


def test_brightness_adds_to_the_value_alone():
    given = images()
    given[0, 0, 0] = 0
    found = corrupt(given, "brightness", 5)
    for before, after in zip(given.reshape(-1, 3)[:50], found.reshape(-1, 3)[:50], strict=True):
        value = min(before.max() / 255 + 0.3, 1)
        expected = before / before.max() * value if before.max() else np.full(3, value)
        np.testing.assert_allclose(after, 255 * expected, atol=0.51)


def test_jpeg_is_pillow_s():
    given = images()
    buffer = io.BytesIO()
    Image.fromarray(given[1]).save(buffer, "JPEG", quality=40)
    np.testing.assert_array_equal(corrupt(given, "jpeg", 5)[1], np.asarray(Image.open(buffer)))


def test_robustness_scores_every_condition():
    split = Split(images(8, 1, 30), RNG.integers(0, 4, 30).astype(np.int32))
    found = corruptions.corrupt_all(split, seed=0)
    assert len(found) == 26 * 30
    np.testing.assert_array_equal(found.images[:30], split.images)
    np.testing.assert_array_equal(
        found.images[30 * 8 : 30 * 9],
        corruptions.corrupt(split.images, "gaussian_blur", 3, np.random.default_rng([0, 1, 3])),
    )
    logits = RNG.normal(size=(26 * 30, 4)).astype(np.float32)
    scores = corruptions.robustness(logits, found.labels, num_bins=15)
    assert scores["images"] == 30
    p = special.softmax(logits.astype(float), -1).reshape(26, 30, 4)
    correct, confidence = p.argmax(-1) == split.labels, p.max(-1)
    own = scores["scores"]
    assert own["gaussian_blur"]["accuracy"] == pytest.approx(correct.mean(1)[[0, *range(6, 11)]])
    over = (confidence - correct).mean(1)
    mean = [over[0], *over[1:].reshape(5, 5).mean(0)]
    assert own["mean"]["overconfidence"] == pytest.approx(mean, abs=1e-6)
    bins = np.minimum((confidence[25] * 15).astype(int), 14)
    gaps = np.bincount(bins, confidence[25] - correct[25])
    assert own["jpeg"]["ece"][5] == pytest.approx(np.abs(gaps).sum() / 30, abs=1e-6)
