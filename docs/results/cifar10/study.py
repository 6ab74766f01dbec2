"""CIFAR-10: studies of many arms with small models.

    python run.py --config=docs/results/cifar10/study.py
    python run.py --config=docs/results/cifar10/study.py:augmented
    python run.py --config=docs/results/cifar10/study.py:small
    python run.py --config=docs/results/cifar10/study.py:small,student=resnet14

A ResNet-20 teaches ResNet-8 students in the arms of the regime, or ResNet-14 students in the four
basic arms. The arguments name the regime:

short: 10,000 training images without augmentation. The teacher learns them by heart and is far too
  sure of itself. ResNet-8 learns in arms for all claims: the temperature (C6), a teacher whose
  logits are divided (C5), other losses on clean and on mixed inputs, partial mixup, another alpha.
augmented: 45,000 images, cropped and flipped at random, and the four basic arms.
small: the claims' arms for two cores: 5,000 images at 16 pixels, a quarter of the arithmetic.
medium: 10,000 of these images; the four basic arms, and a teacher that is calibrated.
medium-sweeps: the same images and teacher; the temperature (C6), and a teacher whose logits are
  divided (C5).
medium-losses: the same; other losses on clean and on mixed inputs, partial mixup, another alpha.
losses: the images and teacher of `small`; other losses on clean and on mixed inputs, partial mixup,
  another alpha, and the temperature that is the teacher's standard deviation.
ample: 45,000 images at 16 pixels, cropped and flipped at random, and the four basic arms.
ample-losses: the same images and teacher; other losses, partial mixup and another alpha.
ample-long: the same images, a teacher of 24 epochs and students of 16; the basic arms and `dist`.
"""

from ml_collections import ConfigDict

from mixkd_jax.config import arguments
from mixkd_jax.configs import cifar

FEW = ("small", "losses", "medium", "medium-sweeps", "medium-losses")
AMPLE = ("ample", "ample-losses", "ample-long")
CHOICES = {
    "regime": ("short", "augmented", *FEW, *AMPLE),
    "student": ("resnet8", "resnet14"),
}
BASES = ("kd", "mixkd")
BASIC = ("ce", "mixup", "kd", "mixkd")


def _each(field: str, *values: float | str) -> tuple[str, ...]:
    return tuple(f"{base}:{field}={value}" for base in BASES for value in values)


SWEEPS = (*_each("teacher_temperature", 2, 4, 6), *_each("temperature", 0.5, 1, 4, 8))
STD = _each("temperature", "std")
LOSSES = (
    *_each("loss", "lskd", "rld", "dkd", "dist"),
    *(f"mixkd:partial={share}" for share in (0.1, 0.41, 0.5)),
    *("mixup:alpha=0.2", "mixkd:alpha=0.2"),
)
ARMS = {
    "short": (*BASIC, *SWEEPS, *_each("teacher_temperature", 3), *STD, *LOSSES),
    "small": (*BASIC, *SWEEPS),
    "losses": (*BASIC, *STD, *LOSSES),
    "medium": (*BASIC, *_each("teacher_temperature", "fit")),
    "medium-sweeps": (*BASIC, *SWEEPS, *STD),
    "medium-losses": (*BASIC, *LOSSES),
    "ample-losses": ("ce", *BASES, *(arm for arm in LOSSES if arm.startswith(BASES))),
    "ample-long": (*BASIC, "kd:loss=dist"),
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config for an argument such as "augmented,student=resnet14"."""
    given = arguments.parse(argument, CHOICES)
    regime, student = given.get("regime", "short"), given.get("student", "resnet8")
    config = cifar.get_config(f"cifar10,teacher=resnet20,student={student}")
    config.seeds = (0, 1, 2)
    config.analysis.pairs = 1000
    config.log.validate_every = "10 epochs"
    for training in (config.teacher, config.student):
        training.schedule.name = "cosine"
        training.duration = "30 epochs"
    if student == "resnet8":
        config.arms = ARMS.get(regime, BASIC)
    if regime not in ("short", "augmented"):
        config.data.image_size = 16
    else:
        for training in (config.teacher, config.student):
            training.batch_size = 128
            training.schedule.learning_rate = 0.1
            training.schedule.warmup = "2 epochs"
    if regime == "short":
        _without_augmentation(config, 10_000)
    elif regime in FEW:
        _without_augmentation(config, 10_000 if regime.startswith("medium") else 5000)
        config.student.duration = "20 epochs"
    else:
        config.data.validation_examples = 5000
        for training in (config.teacher, config.student):
            training.duration = "20 epochs" if regime == "augmented" else "8 epochs"
    if regime == "ample-long":
        config.teacher.duration, config.student.duration = "24 epochs", "16 epochs"
    return config


def _without_augmentation(config: ConfigDict, images: int) -> None:
    config.data.teacher_examples = config.data.student_examples = images
    config.data.validation_examples = 2000
    config.data.crop_padding = 0
    config.data.flip = False
