"""Config fields of how one model is trained."""

from __future__ import annotations

import dataclasses

from mixkd_jax.config import fields
from mixkd_jax.config.duration import Duration


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """From gradients to updates."""

    name: str = fields.field("sgd", "sgd, adam or adamw", "the name of an optimizer", bool)
    momentum: float = fields.number(0.9, "of sgd", largest=1)
    nesterov: bool = fields.flag(True, "of sgd")
    b1: float = fields.number(0.9, "of adam and adamw", largest=1, below=True)
    b2: float = fields.number(0.999, "of adam and adamw", largest=1, below=True)
    eps: float = fields.number(1e-8, "of adam and adamw", above=True)
    weight_decay: float = fields.number(
        5e-4,
        "not on biases and BatchNorm; sgd, adam: added to the gradient (L2); adamw: decoupled",
    )
    clip_norm: float = fields.number(0.0, "largest global norm of the gradient; 0 doesn't clip")
    skip_nonfinite: bool = fields.flag(
        False,
        "leave out updates after which a parameter or a metric isn't finite, and count them, "
        "instead of ending the run; the schedule goes on with the next update that is, and so ends "
        "as many steps before its end as were left out",
    )


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of a learning-rate table: towards `learning_rate`, reached at `end`."""

    end: Duration = fields.duration("1 epochs", "where the piece ends")
    shape: str = fields.one_of(("linear", "cosine"), "of the piece")
    learning_rate: float = fields.number(0.05, "at its end", above=True)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate over the steps."""

    name: str = fields.field(
        "constant", "constant, cosine, multistep or table", "the name of a schedule", bool
    )
    learning_rate: float = fields.number(
        0.05, "the peak; for table, the value at step 0", 1e-30, 1e30
    )
    warmup: Duration = fields.duration(
        "0 epochs", "linear from 0 to the peak (not for table)", zero=True
    )
    end: float = fields.number(0.0, "cosine: the last learning rate", largest=1e30)
    milestones: tuple[Duration, ...] = fields.durations(
        ("150 epochs", "180 epochs", "210 epochs"), "multistep: where the rate is multiplied"
    )
    factor: float = fields.number(0.1, "multistep: what it is multiplied by", above=True)
    pieces: tuple[Piece, ...] = fields.field(
        (("1 epochs", "linear", 0.05),),
        'table: pieces (end, "linear" or "cosine", learning rate at its end), one after the other',
        'a tuple of pieces such as ("10 epochs", "cosine", 1e-4), at least one',
        bool,
    )
    once_per_epoch: bool = fields.flag(False, "hold the rate for an epoch, as Keras schedules do")


@dataclasses.dataclass(frozen=True)
class Training:
    """How one model is trained; the teacher and the student each have all of these."""

    model: str = fields.field(
        "cnn", "a name of `mixkd_jax.models.model_names()`", "the name of a model", bool
    )
    head: str = fields.one_of(
        ("", "student", "teacher", "imagenet"),
        'of the paper\'s models: "student" (a hidden layer), "teacher" (dropout), "imagenet"; "" '
        "chooses the one that the paper gives the model",
    )
    dtype: str = fields.one_of(("float32", "bfloat16"), "of computation")
    pixels: str = fields.one_of(
        ("data", "paper", "keras", "torchvision", "timm"),
        '"data" standardises pixels by data.mean and data.std, the others as the pipeline of that '
        "name did for this model: the paper's or Keras', torchvision's or timm's for a _torch one",
    )
    image_size: int = fields.integer(
        0,
        "pixels of both sides of what this model sees: images are resized to it after they are "
        "mixed (bilinear); 0 is data.image_size",
        0,
        16384,
    )
    weights: str = fields.field(
        "",
        "all weights to start from (docs/weights.md): a path or hf://owner/repository/file; then "
        '`duration` may be "0 epochs"',
        "a file, or nothing",
    )
    backbone_weights: str = fields.field(
        "", "weights of the backbone to start from, likewise", "a file, or nothing"
    )
    head_duration: Duration = fields.duration(
        "0 epochs",
        "first train the head alone, the backbone frozen: Adam, cross-entropy, without mixing",
        zero=True,
    )
    head_learning_rate: float = fields.number(1e-3, "of that stage", 1e-30, 1e30)
    batch_size: int = fields.integer(64, "examples in a step, over all devices together", 1)
    duration: Duration = fields.duration("1 epochs", "of the training", zero=True)
    optimizer: Optimizer = fields.section(Optimizer, "from gradients to updates")
    schedule: Schedule = fields.section(Schedule, "the learning rate")
