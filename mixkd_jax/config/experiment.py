"""Config fields of a whole run."""

from __future__ import annotations

import dataclasses

from mixkd_jax.config import fields
from mixkd_jax.config.data import Data, Mixup
from mixkd_jax.config.duration import Duration
from mixkd_jax.config.loss import Loss
from mixkd_jax.config.training import Training

LARGEST_SEED = 2**32 - 3  # 1 + seed is folded into a key as 32 bits


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a trained model is measured on the test images."""

    batch_size: int = fields.integer(
        500, "examples at once; changes no result but by rounding", 1, changes="nothing"
    )
    num_bins: int = fields.integer(
        15, "equal-width confidence bins of the ECE", 1, 10_000, changes="measures"
    )


@dataclasses.dataclass(frozen=True)
class Analysis:
    """How a trained model is analysed between two images."""

    pairs: int = fields.field(
        2000,
        "pairs of images mixed with λ ~ U(0, 1), of what students learn from and of the test "
        "images each; 0 analyses nothing",
        "0, or an integer of at least 2",
        lambda value: value == 0 or 1 < value < 2**31,
    )
    path_pairs: int = fields.integer(200, "the first of these, each followed at 21 values of λ", 1)
    corrupted_images: int = fields.integer(
        500, "test images that are corrupted in 25 ways; all of them lie on every device", 0
    )


@dataclasses.dataclass(frozen=True)
class Log:
    """What is written while a model trains."""

    every: Duration = fields.duration(
        "1 epochs", "a line of metrics, averaged over the time since the last one"
    )
    validate_every: Duration = fields.duration(
        "1 epochs", "the validation images; a multiple of `every`"
    )
    progress_seconds: float = fields.number(10.0, "seconds between lines of progress")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What is kept of a model's training."""

    every: Duration = fields.duration(
        "20 epochs", "between checkpoints; the last step always has one"
    )
    keep: int = fields.integer(2, "the newest ones kept of each model", 1)
    best: str = fields.one_of(
        ("", "accuracy", "ece", "nll"),
        "keeps also each student as it was where this measure of the validation images was best, "
        "and measures it apart; what decides when that is looked at (`log.every`, "
        "`log.validate_every`, and the bins of an ece) then is fixed for the whole run",
        changes="models",
    )


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A whole run."""

    seed: int = fields.integer(
        0, "chooses the part of the data, its noise, and the teacher's training", 0, LARGEST_SEED
    )
    seeds: tuple[int, ...] = fields.several(
        (0, 1, 2, 3, 4),
        "one student is trained for every arm and every one of these",
        f"integers of at least 0 and at most {LARGEST_SEED}",
        lambda value: 0 <= value <= LARGEST_SEED,
        changes="which models",
    )
    arms: tuple[str, ...] = fields.several(
        ("ce", "mixup", "kd", "mixkd"),
        "ways of training the student: ce, mixup, kd or mixkd, and what each changes of `loss` and "
        '`mixup`, as in "mixkd:temperature=4" or "kd:loss=dkd:kd_weight=0.5"',
        'arms, such as "ce" or "mixkd:temperature=4"',
        bool,
        changes="which models",
    )
    data: Data = fields.section(Data, "images")
    mixup: Mixup = fields.section(Mixup, "of the arms mixup and mixkd")
    loss: Loss = fields.section(Loss, "of the arms kd and mixkd")
    teacher: Training = fields.section(Training, "the teacher")
    teacher_parameters: str = fields.one_of(
        ("replicated", "sharded"),
        'where the teacher\'s parameters lie, and what its optimizer keeps of each: "replicated" '
        'has all of them on every device, "sharded" a part, to be gathered while they are used',
    )
    student: Training = fields.section(Training, "the students")
    evaluation: Evaluation = fields.section(Evaluation, "on the test images")
    analysis: Analysis = fields.section(Analysis, "between images", changes="measures")
    log: Log = fields.section(Log, "while training", changes="nothing")
    checkpoint: Checkpoint = fields.section(Checkpoint, "while training", changes="nothing")
    compilation_cache: str = fields.field(
        "auto",
        'folder in which the command keeps compiled programs for later runs; "auto" is mixkd_jax '
        'in the cache folder of its user (~/.cache), "" keeps none; at most 1 GiB',
        'a folder, "auto" or ""',
        changes="nothing",
    )
