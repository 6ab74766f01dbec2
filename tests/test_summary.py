"""The first lines of a run."""

import types

import pytest

from mixkd_jax import config
from mixkd_jax.configs import cifar
from mixkd_jax.run import summary


class Part:
    image_shape = (32, 32, 3)

    def __len__(self):
        return 20


@pytest.mark.parametrize(
    ("common", "teacher", "models"),
    [
        (0, 0, "teacher resnet20 -> student resnet8"),
        (32, 0, "teacher resnet20 -> student resnet8"),
        (16, 0, "teacher resnet20 (sees 16x16) -> student resnet8 (sees 16x16)"),
        (0, 64, "teacher resnet20 (sees 64x64) -> student resnet8"),
    ],
)
def test_images_that_a_model_sees_at_another_size_are_told(common, teacher, models):
    values = cifar.get_config("cifar10,teacher=resnet20,student=resnet8")
    values.data.image_size, values.teacher.image_size = common, teacher
    images = types.SimpleNamespace(
        name="cifar10", class_names=("cat", "dog"), num_classes=2, validation=None
    )
    images.teacher = images.student = range(50)
    images.test = Part()
    _, line = summary.first_lines("runs/a", config.parse(values), images, {}, 0)
    assert line == f"data: cifar10, 2 classes (cat, dog), 50 train / 20 test, 32x32    {models}"
