"""The config files: every argument of theirs, and the paper's learning rates."""

import math
import re
import runpy

import numpy as np
import pytest
import small

from mixkd_jax import config, objectives
from mixkd_jax.config import arguments, arms
from mixkd_jax.configs import cifar, digits, folder, imagenet, paper
from mixkd_jax.models import imagenet as imagenet_names
from mixkd_jax.run.models import check_model
from mixkd_jax.training.schedules import create_schedule

FILES = {"cifar": cifar, "digits": digits, "folder": folder, "imagenet": imagenet}
SMALL = cifar.MODELS


def _arguments():
    """Every argument of every config, and those that its docstring shows."""
    for name, file in FILES.items():
        yield name, ""
        for match in re.findall(rf"configs/{name}\.py:(\S+)", file.__doc__):
            yield name, match
        for field, values in file.CHOICES.items():
            for value in values:
                if name == "cifar" and value in (*paper.TEACHERS, *paper.STUDENTS):
                    yield name, f"paper,{field}={value}"
                    yield name, f"paper-scratch,cifar10,{field}={value}"
                else:
                    yield name, f"{field}={value}"


def _parse(name, argument):
    values = FILES[name].get_config(argument)
    settings = config.parse(values)
    assert [arm.text for arm in arms.resolve(settings)] == list(settings.arms)
    for model in ("teacher", "student"):
        training = getattr(settings, model)
        if name == "imagenet" and model == "teacher":
            assert not training.weights  # the user names the file
            continue
        check_model(model, training)
    return settings


@pytest.mark.parametrize(("name", "argument"), list(_arguments()))
def test_every_argument_gives_a_config(name, argument):
    settings = _parse(name, argument)
    given = arguments.parse(argument, FILES[name].CHOICES)
    for model in ("teacher", "student"):
        if model in given:
            assert getattr(settings, model).model == given[model]
    if "dataset" in given:
        assert settings.data.name == given["dataset"]
    loss, options = objectives.preset(given.get("loss", "kl"))
    assert (settings.loss.name, settings.loss.options) == (loss, options)
    claims = given.get("arms") == "claims"
    assert settings.arms == (arguments.CLAIMS if claims else ("ce", "mixup", "kd", "mixkd"))


def test_an_imagenet_teacher_needs_a_file():
    values = imagenet.get_config()
    with pytest.raises(config.ConfigError, match=r"config\.teacher\.weights, got neither$"):
        check_model("teacher", config.parse(values).teacher)
    values.teacher.weights = "convnext_tiny.h5"
    check_model("teacher", config.parse(values).teacher)


def test_the_arms_of_the_claims_are_a_sweep_and_their_baselines():
    settings = config.parse(digits.get_config("claims"))
    found = arms.resolve(settings)
    assert {"ce", "mixup", "kd", "mixkd"} <= {arm.text for arm in found}
    for base in ("kd", "mixkd"):
        own = [arm for arm in found if arm.base == base]
        temperatures = {arm.options["temperature"] for arm in own}
        assert temperatures == {1.0, 2.0, 4.0, 8.0, "std"}
        assert len({arm.loss.teacher_temperature for arm in own if arm.loss}) >= 4
    assert settings.data.validation_examples  # on which temperatures are fitted


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        (
            "cifar",
            "cifar11",
            "config argument: expected name=value, or a known value, got 'cifar11'; did you mean "
            "'cifar10'?",
        ),
        (
            "cifar",
            "recipe=papers",
            "config argument recipe: expected one of kd, paper, paper-scratch, got 'papers'; did "
            "you mean 'paper'?",
        ),
        (
            "cifar",
            "techer=resnet8",
            "config argument: expected one of arms, dataset, recipe, teacher, student, loss, got "
            "'techer'; did you mean 'teacher'?",
        ),
        ("cifar", "cifar10,cifar100", "config argument dataset: expected once, got it twice"),
        (
            "cifar",
            "paper,teacher=resnet56",
            "config argument teacher: expected one of resnet152v2, convnext_tiny, convnext_large, "
            "vit_b16, got 'resnet56'",
        ),
        (
            "cifar",
            "paper-scratch,student=wrn-16-2",
            "config argument student: expected one of resnet18, resnet50, mobilenet_v2, got "
            "'wrn-16-2'",
        ),
        (
            "cifar",
            "student=resnet50",
            f"config argument student: expected one of {', '.join(SMALL)}, got 'resnet50'",
        ),
        (
            "imagenet",
            "student=resnet8",
            f"config argument student: expected one of {', '.join(imagenet_names.NAMES)}, got "
            "'resnet8'; did you mean 'resnet18'?",
        ),
        (
            "folder",
            "loss=kld",
            f"config argument loss: expected one of {', '.join(objectives.preset_names())}, got "
            "'kld'; did you mean 'kl'?",
        ),
    ],
)
def test_a_wrong_argument_gets_the_right_ones(name, argument, message):
    with pytest.raises(ValueError) as caught:
        FILES[name].get_config(argument)
    assert str(caught.value).startswith(message)


def test_a_value_alone_is_found_wherever_it_belongs():
    settings = config.parse(cifar.get_config("paper,cifar10"))
    assert settings.data.name == "cifar10"
    assert (
        settings.teacher.weights == "hf://josemedina/KD-Teachers/cifar10/best_convnextlarge.keras"
    )
    assert settings.student.duration == config.Duration(500, "epochs")


# The paper's recipe


def _rate(epoch: float) -> float:
    """The authors' learning rate, written down from the paper's description."""

    def cosine(share, start, end):
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    if epoch < 10:
        return 1e-5 + (5e-4 - 1e-5) * epoch / 10
    if epoch < 50:
        return cosine((epoch - 10) / 40, 5e-4, 1e-4)
    if epoch < 200:
        return cosine((epoch - 50) / 150, 1e-4, 5e-5)
    return cosine((epoch - 200) / 300, 5e-5, 1e-5)


@pytest.mark.parametrize("batch_size", [200, 384])  # 250 and 130.2 steps in an epoch
def test_the_papers_rate_is_that_of_the_released_logs_at_every_epoch(batch_size):
    training = config.parse(cifar.get_config("paper")).student
    per_epoch = 50_000 // batch_size
    total = training.duration.steps(num_examples=50_000, batch_size=batch_size)
    assert total == 500 * per_epoch
    schedule = create_schedule(
        training.schedule, path="schedule", num_examples=50_000, batch_size=batch_size, total=total
    )
    epochs = np.arange(500)
    want = np.array([_rate(epoch) for epoch in epochs])
    logged = {0: 1e-5, 1: 5.9e-5, 2: 1.08e-4, 10: 5e-4, 11: 4.99383e-4}
    np.testing.assert_allclose(want[list(logged)], list(logged.values()), rtol=1e-5)
    for within in (0, per_epoch // 2, per_epoch - 1):  # it is set once an epoch
        np.testing.assert_allclose(schedule(epochs * per_epoch + within), want, rtol=1e-5)


def test_the_paper_trains_as_its_authors_did():
    settings = config.parse(cifar.get_config("paper,teacher=vit_b16,student=mobilenet_v2"))
    student, teacher, data = settings.student, settings.teacher, settings.data
    assert (data.resize, data.image_size, data.flip, data.crop_padding) == (236, 224, True, 0)
    assert (student.head_duration, student.head_learning_rate) == (
        config.Duration(10, "epochs"),
        1e-3,
    )
    assert (student.optimizer.name, student.batch_size, student.pixels) == ("adam", 200, "paper")
    assert teacher.duration == config.Duration(0, "epochs")
    assert teacher.weights == "hf://josemedina/KD-Teachers/cifar100/best_vitbase.keras"
    (mixkd,) = (arm for arm in arms.resolve(settings) if arm.text == "mixkd")
    assert mixkd.options == {"temperature": 2.0, "kd_weight": 1.0, "ce_weight": 0.0}
    mixup = settings.mixup
    assert (mixup.alpha, mixup.partial, mixup.per_example) == (1, 1, True)


def test_the_later_script_weighs_both_terms():
    loss = config.parse(cifar.get_config("paper,loss=kl-ce")).loss
    assert loss.options == {"kd_weight": 0.8, "ce_weight": 0.2}


def test_the_comparison_from_scratch_has_its_own_rate():
    training = config.parse(cifar.get_config("paper-scratch,loss=rld-mixkd")).student
    assert not training.backbone_weights and training.head_duration.amount == 0
    assert (training.optimizer.name, training.optimizer.weight_decay) == ("adamw", 1e-4)
    schedule = create_schedule(
        training.schedule, path="schedule", num_examples=50_000, batch_size=200, total=300 * 250
    )
    np.testing.assert_allclose(schedule(2500), 3e-4, rtol=1e-6)
    np.testing.assert_allclose(schedule(300 * 250), 1e-5, rtol=1e-5)
    assert schedule(0) == 0


@pytest.mark.parametrize(
    ("argument", "count"),
    [
        *(("", 35), ("short", 35), ("augmented", 4), ("short,student=resnet14", 4)),
        *(("small", 18), ("losses", 19)),
        *(("medium", 6), ("medium-sweeps", 20), ("medium-losses", 17)),
        *(("ample", 4), ("ample-losses", 15), ("ample-long", 5)),
    ],
)
def test_the_study_compares_arms_of_one_teacher_over_seeds(argument, count):
    file = small.ROOT / "docs/results/cifar10/study.py"
    settings = config.parse(runpy.run_path(str(file))["get_config"](argument))
    assert len(arms.resolve(settings)) == len(set(settings.arms)) == count
    assert settings.data.name == "cifar10" and len(settings.seeds) == 3
    augmented = argument.startswith(("augmented", "ample"))
    assert settings.data.flip == (settings.data.crop_padding > 0) == augmented
    for model in ("teacher", "student"):
        check_model(model, getattr(settings, model))
