"""The recipe of arXiv:2606.12171 at 224 pixels, as its authors' code has it.

The docstring of configs/cifar.py says how to run it.
"""

from ml_collections import ConfigDict

TEACHERS = {  # their names on the authors' hub, josemedina/KD-Teachers
    "resnet152v2": "resnet152v2",
    "convnext_tiny": "convnexttiny",
    "convnext_large": "convnextlarge",
    "vit_b16": "vitbase",
}
STUDENTS = ("resnet18", "resnet50", "mobilenet_v2")


def apply(config: ConfigDict, *, dataset: str, teacher: str, student: str) -> None:
    """Sets images, teacher and student; the student starts from ImageNet, head first."""
    config.seeds = (0,)
    _images(config)
    _teacher(config.teacher, dataset, teacher)
    _student(config.student, student)
    # Stage 1: the head alone. Stage 2: all, by a rate that is set once an epoch.
    config.student.head_duration = "10 epochs"
    config.student.head_learning_rate = 1e-3
    config.student.duration = "500 epochs"
    config.student.optimizer.name = "adam"
    config.student.optimizer.weight_decay = 0.0
    config.student.optimizer.eps = 1e-7  # Keras' default
    config.student.schedule.name = "table"
    config.student.schedule.learning_rate = 1e-5
    config.student.schedule.pieces = (
        ("10 epochs", "linear", 5e-4),
        ("50 epochs", "cosine", 1e-4),
        ("200 epochs", "cosine", 5e-5),
        ("500 epochs", "cosine", 1e-5),
    )
    config.student.schedule.once_per_epoch = True


def apply_scratch(config: ConfigDict, *, dataset: str, teacher: str, student: str) -> None:
    """Sets the authors' comparison of losses, in which students start at random."""
    config.seeds = (0,)
    _images(config)
    _teacher(config.teacher, dataset, teacher)
    _student(config.student, student)
    config.student.duration = "300 epochs"
    config.student.optimizer.name = "adamw"
    config.student.optimizer.weight_decay = 1e-4
    config.student.schedule.name = "cosine"
    config.student.schedule.learning_rate = 3e-4
    config.student.schedule.end = 1e-5
    config.student.schedule.warmup = "10 epochs"


def _images(config: ConfigDict) -> None:
    """From 32 to 236 pixels, a crop of 224, mirrored; the test images straight to 224."""
    config.data.image_size = 224
    config.data.resize = 236
    config.data.crop_padding = 0
    config.data.flip = True
    config.checkpoint.every = "5 epochs"
    config.evaluation.batch_size = 200
    config.analysis.corrupted_images = 100


def _teacher(training: ConfigDict, dataset: str, name: str) -> None:
    """As released. To fine-tune one yourself: no `weights`, `backbone_weights`, and a duration."""
    training.model = name
    training.pixels = "paper"
    training.dtype = "bfloat16"
    training.batch_size = 200
    training.weights = f"hf://josemedina/KD-Teachers/{dataset}/best_{TEACHERS[name]}.keras"
    training.duration = "0 epochs"
    training.optimizer.name = "sgd"
    training.optimizer.nesterov = False
    training.optimizer.weight_decay = 0.0
    # The authors lowered the rate when the validation accuracy stood still.
    training.schedule.name = "cosine"
    training.schedule.learning_rate = 1e-4
    training.schedule.end = 1e-5


def _student(training: ConfigDict, name: str) -> None:
    training.model = name
    training.pixels = "paper"
    training.dtype = "bfloat16"
    training.batch_size = 200
