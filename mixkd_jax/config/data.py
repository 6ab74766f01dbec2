"""Config fields of the images and of how they are mixed."""

from __future__ import annotations

import dataclasses

from mixkd_jax.config import fields

_LARGEST_SIDE = 16384  # pixels; what is larger is a mistake, and overflows later


@dataclasses.dataclass(frozen=True)
class Data:
    """Where images come from and what is done to them."""

    name: str = fields.field(
        "digits",
        '"digits" (in scikit-learn), "folder", or the name of a TFDS data set',
        "the name of a data set",
        bool,
    )
    dir: str = fields.field(
        "",
        'of "folder": that folder. Of TFDS: where its data sets are; "" is its default',
        "a folder",
        changes="nothing",
    )
    download: bool = fields.flag(
        True, "download a TFDS data set that isn't there", changes="nothing"
    )
    pipeline: str = fields.one_of(
        ("auto", "device", "stream"),
        '"device" keeps all images on every device, "stream" decodes them batch by batch; "auto" '
        "streams a folder of more than 4 GiB of pixels",
    )
    workers: int = fields.integer(
        8,
        "stream: threads that decode; 0 decodes when a batch is needed",
        0,
        1024,
        changes="nothing",
    )
    prefetch: int = fields.integer(2, "stream: batches decoded ahead", 1, 1024, changes="nothing")
    crop: str = fields.one_of(
        ("random_resized_crop", "resize_crop"),
        'stream: training views; "resize_crop" resizes, then crops at random',
    )
    broken: str = fields.one_of(
        ("stop", "skip"),
        '"stop" at an image that can\'t be decoded, or "skip" it. A stream always stops at a '
        "broken test or validation image: the whole split is measured there, or nothing",
    )
    teacher_examples: int = fields.count(
        -1,
        "training images that the teacher learns from: the first ones of one shuffle, which `seed` "
        "decides, so that the smaller part lies within the larger; -1 takes all",
    )
    student_examples: int = fields.count(-1, "training images that students learn from, likewise")
    validation_examples: int = fields.integer(
        0,
        "held out of the training images, watched while training; temperatures are fitted on them",
        0,
    )
    test_examples: int = fields.count(-1, "the first ones of the test split; -1 takes all")
    noise: float = fields.number(
        0.0,
        "standard deviation of Gaussian noise, as a fraction of the pixels' range, added once to "
        "what students learn from and to what all models are measured on, but not to what the "
        "teacher learns from",
        largest=1,
    )
    image_size: int = fields.integer(
        0,
        'pixels of both sides of what the models see. 0: as the images are; of "folder": their own '
        "size if they have one, else found",
        0,
        _LARGEST_SIDE,
    )
    resize: int = fields.integer(
        0,
        "pixels to resize to before a crop of `image_size`: in training a random one, of a stream "
        "also when it measures, in the middle; 0: no crop",
        0,
        _LARGEST_SIDE,
    )
    crop_padding: int = fields.integer(
        0, "pixels of zeros on every side before a random crop; 0: no crop", 0, _LARGEST_SIDE
    )
    flip: bool = fields.flag(False, "mirror half of the images, left to right")
    mean: tuple[float, ...] = fields.numbers(
        (0.0,), "what every model subtracts from pixels in [0, 1]: a number per channel"
    )
    std: tuple[float, ...] = fields.numbers(
        (1.0,), "what every model divides the difference by", positive=True
    )


@dataclasses.dataclass(frozen=True)
class Mixup:
    """How the arms that mix do it, x̃ = λ x_i + (1-λ) x_j: arguments of `mixup.sample_mixup`."""

    alpha: float = fields.number(1.0, "λ ~ Beta(alpha, alpha); 0 never mixes", largest=1e6)
    partial: float = fields.number(
        1.0, "probability that an example is mixed at all; else its λ is 1", largest=1
    )
    per_example: bool = fields.flag(True, "one λ for every example; False: one for the whole batch")
