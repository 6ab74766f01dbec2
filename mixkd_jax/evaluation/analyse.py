"""The analysis of one model: from its checkpoint to what `analysis.json` holds.

Two parts. `create_interview` compiles what asks a model all that is to be known; what it returns
is bounded by the number of pairs, not by the data. `analyse` makes numbers of the answers, of a
student beside those of its teacher.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mixkd_jax.evaluation import calibration_curves, corruptions, representation, vicinity
from mixkd_jax.evaluation.answers import Answers, Ask
from mixkd_jax.evaluation.pairs import Pairs, draw_pairs
from mixkd_jax.models.network import Variables
from mixkd_jax.training.feeds import Images

PATH = np.linspace(0, 1, 21, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Questions:
    """What every model of a run is asked.

    Attributes:
      splits: the images that are mixed, by name ("train", "test").
      pairs: of each split.
      path_pairs: how many of the pairs are followed along λ = 0, 0.05, ... 1.
      held_out: images to fit a temperature on; None if there are none.
      corrupted: what `corruptions.corrupt_all` made of test images; None if they are not asked.
      num_bins: bins of confidence.
      seed: of the resamples and shuffles.
    """

    splits: Mapping[str, Images]
    pairs: Mapping[str, Pairs]
    path_pairs: int
    held_out: Images | None
    corrupted: Images | None
    num_bins: int
    seed: int


class Response(NamedTuple):
    """A model's answers about one split: to its images, to pairs, and along paths between them."""

    real: Answers
    mixed: Answers
    path: Answers


class Interview(NamedTuple):
    """All that a model answered.

    Attributes:
      splits: by name.
      test: logits f32[N, C] of all test images.
      held_out: logits of the held-out images, if any.
      corrupted: logits of the corrupted images, if any.
    """

    splits: dict[str, Response]
    test: np.ndarray
    held_out: np.ndarray | None
    corrupted: np.ndarray | None


def create_questions(
    splits: Mapping[str, Images],
    held_out: Images | None,
    corrupted: Images | None,
    *,
    num_pairs: int,
    path_pairs: int,
    num_bins: int,
    seed: int,
) -> Questions:
    """Draws the pairs of every split; see `Questions`."""
    pairs = {
        name: draw_pairs(np.random.default_rng([seed, k]), len(split), split.labels, num_pairs)
        for k, (name, split) in enumerate(splits.items())
    }
    return Questions(splits, pairs, path_pairs, held_out, corrupted, num_bins, seed)


def create_interview(ask: Ask, questions: Questions) -> Callable[[Variables], Interview]:
    """Returns what asks a network all `questions`, as a function of its variables."""

    def everything(variables: Variables, images: Images) -> np.ndarray:
        index = np.arange(len(images), dtype=np.int32)
        return ask(variables, images, index, index, np.ones(len(index), np.float32)).logits

    def if_any(variables: Variables, images: Images | None) -> np.ndarray | None:
        return None if images is None else everything(variables, images)

    def interview(variables: Variables) -> Interview:
        return Interview(
            {
                name: _respond(ask, variables, images, questions.pairs[name], questions.path_pairs)
                for name, images in questions.splits.items()
            },
            everything(variables, questions.splits["test"]),
            if_any(variables, questions.held_out),
            if_any(variables, questions.corrupted),
        )

    return interview


def _all_labels(images: Images) -> np.ndarray:
    return images.labels(np.arange(len(images)))


def _respond(
    ask: Ask, variables: Variables, images: Images, pairs: Pairs, path_pairs: int
) -> Response:
    def mixtures(chosen: Pairs) -> Answers:
        i, j = chosen.images[chosen.i], chosen.images[chosen.j]
        return ask(variables, images, i, j, chosen.lam)

    certain = np.ones(len(pairs.images), np.float32)
    return Response(
        ask(variables, images, pairs.images, pairs.images, certain),
        mixtures(pairs),
        mixtures(pairs.on_path(path_pairs, PATH)),
    )


def analyse(
    questions: Questions, model: Interview, teacher: Interview | None = None
) -> dict[str, Any]:
    """Returns what is to be known of a model: "splits" by name, "calibration", "corruption".

    Args:
      questions: what was asked.
      model: its answers.
      teacher: the answers of its teacher; None for a teacher itself.
    """
    labels = _all_labels(questions.splits["test"])
    held_out = None
    if model.held_out is not None and questions.held_out is not None:
        held_out = model.held_out, _all_labels(questions.held_out)
    corruption = None
    if model.corrupted is not None and questions.corrupted is not None:
        corruption = corruptions.robustness(
            model.corrupted, _all_labels(questions.corrupted), num_bins=questions.num_bins
        )
    return {
        "splits": {
            name: _analyse_split(
                questions, name, response, None if teacher is None else teacher.splits[name]
            )
            for name, response in model.splits.items()
        },
        "calibration": calibration_curves.calibrate(
            model.test,
            labels,
            held_out,
            num_bins=questions.num_bins,
            rng=np.random.default_rng([questions.seed, 100]),
        ),
        "corruption": corruption,
    }


def _analyse_split(
    questions: Questions, name: str, model: Response, teacher: Response | None
) -> dict[str, Any]:
    pairs = questions.pairs[name]
    path = pairs.on_path(questions.path_pairs, PATH)
    rng = np.random.default_rng([questions.seed, 101])
    values = _values(model, teacher, "mixed", pairs)
    values |= vicinity.structure(model.real, model.mixed, pairs, rng)
    features = model.path.features.reshape(len(PATH), -1, model.path.features.shape[-1])
    straight = {"straightness": representation.straightness(features)}
    found: dict[str, Any] = {
        "images": len(pairs.images),
        "pairs": len(pairs.i),
        "path_pairs": features.shape[1],
        "mixed": vicinity.summarize(values, pairs),
        "path": {
            "lam": [round(float(lam), 2) for lam in PATH],
            **vicinity.statistics(
                _values(model, teacher, "path", path),
                np.repeat(np.arange(len(PATH)), features.shape[1]),
                len(PATH),
            ),
        },
        "straightness": vicinity.statistics(straight, np.zeros(features.shape[1], int))[
            "straightness"
        ],
    }
    if teacher is not None:
        real = vicinity.compare(teacher.real.logits, model.real.logits)
        real = {key: np.asarray(value, np.float64) for key, value in real.items()}
        found["real"] = vicinity.statistics(real, np.zeros(len(pairs.images), int))
        found["cka"] = {
            "real": representation.linear_cka(teacher.real.features, model.real.features),
            "mixed": representation.linear_cka(teacher.mixed.features, model.mixed.features),
        }
    return found


def _values(model: Response, teacher: Response | None, part: str, pairs: Pairs) -> vicinity.Values:
    """The measures of "mixed" or "path" answers to `pairs`, beside the teacher's if any."""
    own: Answers = getattr(model, part)
    values = vicinity.measure(model.real, own, pairs)
    if teacher is None:
        return values
    others: Answers = getattr(teacher, part)
    compared = vicinity.compare(others.logits, own.logits)
    return (
        values
        | {name: np.asarray(value, np.float64) for name, value in compared.items()}
        | vicinity.gains(vicinity.measure(teacher.real, others, pairs), values)
    )
