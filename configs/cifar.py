"""CIFAR-100, CIFAR-10: from scratch, or the paper's recipe.

    python run.py --config=configs/cifar.py
    python run.py --config=configs/cifar.py:cifar10,teacher=resnet56,student=resnet20
    python run.py --config=configs/cifar.py:teacher=resnet32x4,student=resnet8x4,loss=rld
    python run.py --config=configs/cifar.py:paper,teacher=convnext_large,student=resnet50

Arguments, in any order: the data set (cifar100, cifar10), the recipe, `teacher=`, `student=` and
`loss=` (mixkd_jax/objectives.py). The recipes:

kd: both models from scratch at 32 pixels, as RepDistiller and mdistiller train them (Tian et al.,
  ICLR 2020, appendix): SGD, 240 epochs, batch 64, learning rate 0.05 divided by 10 at 150, 180
  and 210.
paper: arXiv:2606.12171 at 224 pixels (configs/paper.py). Its teachers come from the authors' hub
  (pip install -e ".[weights]"). The student is to start from ImageNet; name the file that
  keras.applications downloads, such as
  --config.student.backbone_weights=resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5
paper-scratch: the authors' comparison of losses, students from scratch; with loss=kl-ce, lskd-mixkd
  or rld-mixkd.
"""

from ml_collections import ConfigDict

from mixkd_jax import objectives
from mixkd_jax.config import arguments, get_defaults
from mixkd_jax.configs import paper

# Pairs that the literature reports: wrn-40-2 to wrn-16-2 or wrn-40-1, resnet56 to resnet20,
# resnet110 to resnet32 or resnet20, resnet32x4 to resnet8x4.
MODELS = (
    *("wrn-16-1", "wrn-16-2", "wrn-40-1", "wrn-40-2", "wrn-28-10"),
    *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    *("resnet8x4", "resnet32x4"),
)
# Mean and standard deviation of the training images' pixels in [0, 1], per channel.
PIXELS = {
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
CHOICES = {
    **arguments.ARMS,
    "dataset": PIXELS,
    "recipe": ("kd", "paper", "paper-scratch"),
    "teacher": (*MODELS, *paper.TEACHERS),
    "student": (*MODELS, *paper.STUDENTS),
    "loss": objectives.preset_names(),
}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config for an argument such as "cifar10,student=resnet8"."""
    given = arguments.parse(argument, CHOICES)
    config = get_defaults()
    config.data.name = given.get("dataset", "cifar100")
    config.data.mean, config.data.std = PIXELS[config.data.name]
    arguments.apply(config, given)
    recipe = given.get("recipe", "kd")
    if recipe == "kd":
        _from_scratch(config, given.get("teacher", "wrn-40-2"), given.get("student", "wrn-16-2"))
        return config
    teacher = arguments.one_of("teacher", given.get("teacher", "convnext_large"), paper.TEACHERS)
    student = arguments.one_of("student", given.get("student", "resnet50"), paper.STUDENTS)
    apply = paper.apply if recipe == "paper" else paper.apply_scratch
    apply(config, dataset=config.data.name, teacher=teacher, student=student)
    return config


def _from_scratch(config: ConfigDict, teacher: str, student: str) -> None:
    """Sets the recipe of the distillation literature."""
    config.data.crop_padding = 4
    config.data.flip = True
    config.teacher.model = arguments.one_of("teacher", teacher, MODELS)
    config.student.model = arguments.one_of("student", student, MODELS)
    for training in (config.teacher, config.student):
        training.batch_size = 64
        training.duration = "240 epochs"
        training.optimizer.name = "sgd"
        training.optimizer.momentum = 0.9
        training.optimizer.nesterov = True
        training.optimizer.weight_decay = 5e-4
        training.schedule.name = "multistep"
        training.schedule.learning_rate = 0.05
        training.schedule.milestones = ("150 epochs", "180 epochs", "210 epochs")
        training.schedule.factor = 0.1
    config.log.every = "1 epochs"
    config.checkpoint.every = "10 epochs"
