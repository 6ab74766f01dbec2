"""What the benchmarks count, against published numbers."""

import pytest

from benchmarks import step
from mixkd_jax.models import create_model
from mixkd_jax.models.network import Network

# Multiplications and additions of one image of 224 pixels, in units of 1e9, of their papers; of
# ResNet-50 that of Keras, whose strides are in the first convolution of a block.
PUBLISHED = {
    "resnet18": 1.8,
    "resnet50": 3.9,
    "resnet152v2": 10.9,
    "mobilenet_v2": 0.30,
    "convnext_tiny": 4.5,
    "convnext_large": 34.4,
    "vit_b16": 17.6,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_work_is_counted_as_published(name):
    model = create_model(name, num_classes=1000, head="imagenet")
    counted = step.multiply_adds(Network(model, (0.0,), (1.0,)), (224, 224, 3))
    assert counted / 1e9 == pytest.approx(PUBLISHED[name], rel=0.02)
