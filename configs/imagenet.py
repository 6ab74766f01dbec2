"""ImageNet at 224 pixels, streamed, for accelerators.

    python run.py --config=configs/imagenet.py --config.teacher.weights=FILE

FILE is a classifier that keras.applications downloads for the teacher, here ConvNeXt-Tiny
(convnext_tiny.h5 on Keras' server). TFDS must have prepared `imagenet2012` (docs/data.md).
Arguments as in configs/cifar.py: `teacher=`, `student=` and `loss=`. With many hosts add
`--distributed`, and
`--config.teacher_parameters=sharded` for a teacher too large for one device (README, "Several
devices and hosts").

The student's schedule is the usual one for ResNets (Goyal et al., arXiv:1706.02677): SGD, batch
1024, learning rate 0.1 per 256 examples, 5 epochs of warm-up, here with a cosine over 100 epochs.
"""

from ml_collections import ConfigDict

from mixkd_jax import objectives
from mixkd_jax.config import arguments, get_defaults
from mixkd_jax.models import imagenet

CHOICES = {
    "teacher": imagenet.NAMES,
    "student": imagenet.NAMES,
    "loss": objectives.preset_names(),
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config for an argument such as "teacher=convnext_large"."""
    given = arguments.parse(argument, CHOICES)
    config = get_defaults()
    config.seeds = (0,)
    config.data.name = "imagenet2012"
    config.data.pipeline = "stream"
    config.data.image_size = 224
    config.data.resize = 256
    config.data.crop = "random_resized_crop"
    config.data.flip = True
    config.data.workers = 16
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    arguments.apply(config, given)

    config.teacher.model = given.get("teacher", "convnext_tiny")
    config.teacher.head = "imagenet"
    config.teacher.pixels = "torchvision" if config.teacher.model.endswith("_torch") else "keras"
    config.teacher.duration = "0 epochs"
    config.student.model = given.get("student", "resnet50")
    config.student.head = "imagenet"
    config.student.duration = "100 epochs"
    config.student.optimizer.weight_decay = 1e-4
    config.student.schedule.name = "cosine"
    config.student.schedule.learning_rate = 0.4
    config.student.schedule.warmup = "5 epochs"
    for training in (config.teacher, config.student):
        training.batch_size = 1024
        training.dtype = "bfloat16"

    config.evaluation.batch_size = 1000
    config.analysis.corrupted_images = 100
    config.log.every = "100 steps"
    config.log.validate_every = "1 epochs"
    config.checkpoint.every = "1 epochs"
    return config
