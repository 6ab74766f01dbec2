"""The mixed test images of an analysis: chosen by rule, with what is predicted for them."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from scipy import special

from mixkd_jax.data import Split
from mixkd_jax.evaluation import between
from mixkd_jax.evaluation.examples import examples
from mixkd_jax.evaluation.pairs import draw_pairs
from mixkd_jax.evaluation.predict import Predictions
from mixkd_jax.training import sharding
from mixkd_jax.training.feeds import OnDevice

COUNT, CLASSES, PAIRS = 30, 6, 60


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (COUNT, 4, 4, 1), np.uint8)
    labels = rng.integers(0, CLASSES, COUNT).astype(np.int32)
    split = OnDevice.put(Split(pixels, labels), sharding.data_mesh())
    return split, pixels, draw_pairs(rng, COUNT, lambda indices: labels[indices], PAIRS)


def _predictions(seed):
    """For the images and for the mixtures."""
    rng = np.random.default_rng(seed)
    inputs = (COUNT, PAIRS)
    return tuple(Predictions(rng.normal(0, 3, (n, CLASSES)), None) for n in inputs)


def _examples(split, pairs, model, teacher):
    first = model if teacher is None else teacher
    nonlinearity = between.measure(first[0], first[1], pairs)["nonlinearity"]
    divergence = others = None
    if teacher is not None:
        compared = between.compare(teacher[1].logits, model[1].logits)
        divergence, others = np.asarray(compared["kl_teacher"]), teacher[1].logits.__getitem__
    own = model[1].logits.__getitem__
    return examples(split, pairs, nonlinearity, divergence, own, others)


def test_a_teacher_shows_every_rule_with_the_mixed_image(drawn):
    split, pixels, pairs = drawn
    model = _predictions(0)
    found = _examples(split, pairs, model, None)
    rules = [one["rule"] for one in found]
    assert set(rules) <= {
        "at random",
        "most linear for the teacher",
        "least linear for the teacher",
    }
    assert len(found) == len({one["pair"] for one in found}) in (3, 4)
    for one in found:
        k = one["pair"]
        first, second = (pixels[pairs.images[side[k]]] for side in (pairs.i, pairs.j))
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(one["image"]))))
        mixed = pairs.lam[k] * first + (1 - pairs.lam[k]) * second
        assert np.abs(picture - mixed[..., 0]).max() <= 0.51
        assert one["labels"][0] != one["labels"][1] and 0.3 < one["lam"] < 0.7
        probs = special.softmax(model[1].logits[k])
        assert one["classes"] == np.argsort(-probs)[:5].tolist()
        assert one["probabilities"] == pytest.approx(np.sort(probs)[::-1][:5], abs=1e-4)
        assert "teacher" not in one


def test_a_student_adds_the_one_on_which_it_is_farthest_from_its_teacher(drawn):
    split, _, pairs = drawn
    teacher, student = _predictions(0), _predictions(2)
    first = _examples(split, pairs, teacher, None)
    found = _examples(split, pairs, student, teacher)
    assert [one["pair"] for one in found[: len(first)]] == [one["pair"] for one in first]
    assert not any("image" in one for one in found[: len(first)])
    (own,) = found[len(first) :]
    logs = [special.log_softmax(each[1].logits, -1) for each in (teacher, student)]
    divergence = np.sum(np.exp(logs[0]) * (logs[0] - logs[1]), -1)
    known = ~pairs.same & (pairs.lam > 0.3) & (pairs.lam < 0.7)
    assert own["pair"] == int(np.argmax(np.where(known, divergence, -1)))
    assert own["rule"] == "farthest from the teacher" and "image" in own
    theirs = special.softmax(teacher[1].logits[own["pair"]])
    assert own["teacher"]["classes"] == np.argsort(-theirs)[:5].tolist()
    assert own["teacher"]["probabilities"] == pytest.approx(np.sort(theirs)[::-1][:5], abs=1e-4)


def test_where_all_pairs_are_of_one_class_there_is_nothing_to_show(drawn):
    split, _, pairs = drawn
    same = pairs._replace(labels=np.zeros_like(pairs.labels))
    assert _examples(split, same, _predictions(1), _predictions(0)) == []
