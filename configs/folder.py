"""Your own images, in a folder for each class.

    python run.py --config=configs/folder.py --config.data.dir=FOLDER
    python run.py --config=configs/folder.py:teacher=wrn-40-2,student=wrn-16-2 --config.data.dir=...

FOLDER has <class>/*.jpg (or .png, ...), or train/<class>/*.jpg and test/<class>/*.jpg, of any
size. The number of classes, the image size and the splits are found; docs/data.md says how. Images
that don't fit into memory are streamed. Both models are trained from scratch; to start from
ImageNet, name a file (docs/weights.md):
--config.teacher.backbone_weights=FILE, with --config.teacher.pixels=keras for a file of Keras, or
with a model such as teacher=resnet50_torch, whose pixels are as set here, for one of PyTorch.
"""

from ml_collections import ConfigDict

from mixkd_jax import objectives
from mixkd_jax.config import arguments, get_defaults
from mixkd_jax.configs import cifar
from mixkd_jax.models import imagenet

# The larger ones need images of at least 32 pixels.
MODELS = (*cifar.MODELS, *imagenet.NAMES)
CHOICES = {
    **arguments.ARMS,
    "teacher": MODELS,
    "student": MODELS,
    "loss": objectives.preset_names(),
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config for an argument such as "teacher=resnet50,student=resnet18"."""
    given = arguments.parse(argument, CHOICES)
    config = get_defaults()
    config.seeds = (0,)
    config.data.name = "folder"
    config.data.flip = True
    config.data.mean = (0.485, 0.456, 0.406)  # of ImageNet's images
    config.data.std = (0.229, 0.224, 0.225)
    arguments.apply(config, given)
    config.teacher.model = given.get("teacher", "resnet50")
    config.student.model = given.get("student", "resnet18")
    for training in (config.teacher, config.student):
        training.batch_size = 32
        training.duration = "30 epochs"
        training.optimizer.name = "adamw"
        training.optimizer.weight_decay = 1e-2
        training.schedule.name = "cosine"
        training.schedule.learning_rate = 1e-3
        training.schedule.warmup = "2 epochs"
    config.checkpoint.every = "5 epochs"
    # Folders are small, and models at 224 pixels slow without an accelerator.
    config.analysis.pairs, config.analysis.path_pairs = 500, 50
    return config
