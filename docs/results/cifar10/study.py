"""CIFAR-10 at 16 pixels: a study of many arms that two cores can do.

    python run.py --config=docs/results/cifar10/study.py
    python run.py --config=docs/results/cifar10/study.py:augmented

A ResNet-20 teaches ResNet-8 students; the images are resized to 16 x 16 pixels, a quarter of the
arithmetic. The arguments name the regime:

short: 5,000 training images without augmentation. The teacher learns them by heart and is far too
  sure of itself. Arms for all claims: the temperature (C6), a teacher whose logits are divided
  (C5), other losses on clean and on mixed inputs, partial mixup and other alphas.
augmented: 45,000 images, cropped and flipped at random, and the four basic arms.
"""

from ml_collections import ConfigDict

from mixkd_jax.config import arguments
from mixkd_jax.configs import cifar

CHOICES = {"regime": ("short", "augmented")}
BASES = ("kd", "mixkd")
ARMS = (
    *("ce", "mixup", "kd", "mixkd"),
    *(f"{base}:teacher_temperature={t}" for base in BASES for t in (2, 3, 4, 6)),
    *(f"{base}:temperature={t}" for base in BASES for t in (0.5, 1, 4, 8, "std")),
    *(f"{base}:loss={loss}" for base in BASES for loss in ("lskd", "rld", "dkd", "dist")),
    *(f"mixkd:partial={share}" for share in (0.1, 0.41, 0.5)),
    *("mixup:alpha=0.2", "mixkd:alpha=0.2"),
)


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config of a regime, "short" unless it is given."""
    regime = arguments.parse(argument, CHOICES).get("regime", "short")
    config = cifar.get_config("cifar10,teacher=resnet20,student=resnet8")
    config.data.image_size = 16
    config.seeds = (0, 1, 2)
    for training in (config.teacher, config.student):
        training.schedule.name = "cosine"
        training.duration = "30 epochs" if regime == "short" else "12 epochs"
    if regime == "short":
        config.arms = ARMS
        config.data.teacher_examples = config.data.student_examples = 5000
        config.data.validation_examples = 2000
        config.data.crop_padding = 0
        config.data.flip = False
    else:
        config.data.validation_examples = 5000
        config.data.crop_padding = 2
    config.analysis.pairs = 1000
    return config
