"""The study's script for images that show none of a model's classes."""

import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

SCRIPT = runpy.run_path(str(small.ROOT / "docs/results/cifar10/unfamiliar.py"), run_name="script")


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
    found = SCRIPT["scores"](Brightness(1), np.full((5, 32, 32, 3), level, np.uint8), digits)
    expected = float(level == 255)  # a digit is less certain than a white image, not than black
    assert found["auroc_confidence"] == found["auroc_entropy"] == expected
    p = 1 / (1 + np.exp(-1.0))
    assert found["confidence"] == pytest.approx(p, rel=1e-5)
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert found["entropy"] == pytest.approx(entropy, rel=1e-5)


def test_the_table_has_means_and_deviations():
    spread = {"mean": 0.5, "std": 0.012, "low": 0.4, "high": 0.6, "seeds": 3}
    one = {**spread, "std": None}
    found = {"teacher": dict.fromkeys(SCRIPT["HEADINGS"], one)}
    found["kd"] = dict.fromkeys(SCRIPT["HEADINGS"], spread)
    rows = [row.split() for row in SCRIPT["table"](found).replace("|", " ").splitlines()[2:]]
    assert rows[0] == ["teacher", "50.0", "0.500", "50.0", "50.0"]
    assert rows[1] == ["kd", *"50.0 ± 1.2 0.500 ± 0.012 50.0 ± 1.2 50.0 ± 1.2".split()]
