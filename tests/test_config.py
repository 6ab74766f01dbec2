import importlib
import re
import sys
from typing import get_args

import pytest
import small
from ml_collections import FrozenConfigDict

from mixkd_jax import config
from mixkd_jax.config import ConfigError, Duration, fields
from mixkd_jax.config.training import Piece

CONFIGS = sorted(
    path.stem
    for path in (small.ROOT / "configs").glob("*.py")
    if re.search("^def get_config", path.read_text(), re.MULTILINE)
)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_parses(name):
    values = importlib.import_module(f"mixkd_jax.configs.{name}").get_config()
    assert set(values) == set(small.default_values())
    assert isinstance(config.parse(values), config.Experiment)


def test_configs_need_no_other_library():
    allowed = {"ml_collections", "mixkd_jax", *sys.stdlib_module_names}
    for path in (small.ROOT / "configs").glob("*.py"):
        modules = re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.MULTILINE)
        assert set(modules) <= allowed, path.name


def test_the_page_of_fields_is_what_is_declared():
    page = (small.ROOT / "docs" / "config.md").read_text()
    assert page == config.markdown(), "python -m mixkd_jax.config > docs/config.md"


def test_every_field_has_a_meaning_and_bounds():
    rows = config.rows()
    paths = [".".join(("config", *path)) for path in FIELDS if not _is_section(path)]
    assert sorted(row.path for row in rows) == sorted(paths)
    for row in rows:
        assert row.meaning and row.expected and row.default, row.path
        assert row.changes in get_args(fields.Changes)


def test_parsed_fields_are_typed():
    parsed = config.parse(
        small.default_values(data__noise=1, loss__temperature="3", loss__kd_weight=2)
    )
    assert parsed.seeds == (0, 1, 2, 3, 4)
    assert parsed.data.noise == 1.0 and isinstance(parsed.data.noise, float)
    assert parsed.loss.options == {"temperature": 3.0, "kd_weight": 2.0}
    assert isinstance(parsed.loss.options["kd_weight"], float)
    assert parsed.loss.teacher_temperature == 1.0
    assert parsed.student.duration == Duration(1.0, "epochs")
    assert parsed.student.schedule.milestones[0] == Duration(150.0, "epochs")
    piece = Piece(Duration(1.0, "epochs"), "linear", 0.05)
    assert parsed.teacher.schedule.pieces == (piece,)


def test_dictionaries_and_frozen_configs_parse_alike():
    values = small.default_values()
    parsed = config.parse(values)
    assert config.parse(values.to_dict()) == parsed
    assert config.parse(FrozenConfigDict(values)) == parsed  # pyright: ignore[reportArgumentType]


def _leaves(values, path=()):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        yield (*path, name)


FIELDS = list(_leaves(small.default_values().to_dict()))


def _section(values, path):
    for name in path[:-1]:
        values = values[name]
    return values


def _is_section(path):
    return isinstance(_section(small.default_values().to_dict(), path)[path[-1]], dict)


def _is_option(path):
    """Whether a field is an option of a loss, which needn't be set."""
    return path[0] == "loss" and path[-1] not in ("loss", "name", "teacher_temperature")


@pytest.mark.parametrize("path", [p for p in FIELDS if not _is_option(p)], ids=".".join)
def test_every_field_is_missed_and_has_a_type(path):
    name = ".".join(("config", *path))
    values = small.default_values().to_dict()
    del _section(values, path)[path[-1]]
    with pytest.raises(ConfigError, match=f"^{re.escape(name)}: missing; expected "):
        config.parse(values)
    for wrong in (None, 1 + 2j, {1, 2}):
        values = small.default_values().to_dict()
        _section(values, path)[path[-1]] = wrong
        with pytest.raises(ConfigError) as caught:
            config.parse(values)
        assert re.match(f"{re.escape(name)}: expected a?", str(caught.value))
        assert str(caught.value).endswith(f"got {wrong!r}")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("seed", -1, "an integer of at least 0"),
        ("seed", True, "an integer"),
        ("seed", 1.0, "an integer"),
        ("seed", 2**32, "at most"),
        ("seeds", (), "each once"),
        ("seeds", (1, 1), "each once"),
        ("seeds", (0, -1), "at least 0"),
        ("seeds", (0, 2**32 - 1), "at most"),
        ("seeds", "01", "a tuple"),
        ("seeds", 3, "a tuple"),
        ("arms", ("ce", "ce"), "each once"),
        ("arms", ("",), "arms, such as"),
        ("data.name", "", "the name of a data set"),
        ("data.download", 1, "True or False"),
        ("data.student_examples", 0, "a positive integer, or -1 for all"),
        ("data.student_examples", -2, "a positive integer, or -1 for all"),
        ("data.validation_examples", -1, "at least 0"),
        ("data.noise", 1.5, "at most 1"),
        ("data.noise", float("nan"), "a number"),
        ("data.crop_padding", -1, "at least 0"),
        ("data.mean", (), "one per channel"),
        ("data.mean", (float("nan"),), "one per channel"),
        ("data.mean", ("0.5",), "one per channel"),
        ("data.std", (0.0,), "positive"),
        ("data.std", (float("inf"),), "positive"),
        ("mixup.alpha", -0.1, "at least 0"),
        ("mixup.alpha", float("inf"), "a number"),
        ("mixup.partial", 1.1, "at most 1"),
        ("loss.temperature", "hot", 'a finite number, or "std"'),
        ("loss.temperature", "nan", 'a finite number, or "std"'),
        ("loss.temperature", True, 'a finite number, or "std"'),
        ("loss.kd_weight", "much", "a finite number"),
        ("loss.kd_weight", float("inf"), "a finite number"),
        ("loss.ddof", 1, "nothing for loss kl"),
        ("loss.teacher_temperature", "0", 'a number from 1e-06 to 1e+06, or "fit"'),
        ("loss.teacher_temperature", "best", 'or "fit"'),
        ("loss.teacher_temperature", "nan", 'or "fit"'),
        ("student.dtype", "float16", "one of float32, bfloat16"),
        ("student.batch_size", 0, "at least 1"),
        ("student.batch_size", 10**12, "got 1000000000000; integers are at most 2,147,483,647"),
        ("student.optimizer.eps", 1e300, "got 1e+300; numbers are 0, or 1e-30 to 1e+30 in size"),
        ("student.optimizer.clip_norm", 1e-300, "numbers are 0, or 1e-30 to 1e+30 in size"),
        ("student.duration", "-1 epochs", "duration"),
        ("student.duration", "10", "duration"),
        ("student.duration", "10 minutes", "duration"),
        ("student.duration", "1e999 steps", "duration"),
        ("student.duration", 10, "duration"),
        ("student.optimizer.eps", 0.0, "above 0"),
        ("student.optimizer.momentum", 1.5, "at most 1"),
        ("student.schedule.learning_rate", 0, "at least 1e-30"),
        ("student.schedule.warmup", "soon", "duration"),
        ("student.schedule.milestones", ("1 epochs", "x"), "duration"),
        ("student.schedule.pieces", (), "pieces"),
        ("student.schedule.pieces", (("1 epochs", "linear"),), "pieces"),
        ("evaluation.num_bins", 0, "at least 1"),
        ("log.every", "0 steps", "positive duration"),
        ("log.progress_seconds", -1.0, "at least 0"),
        ("checkpoint.keep", 0, "at least 1"),
    ],
)
def test_wrong_values_are_refused(field, value, expected):
    values = small.default_values().to_dict()
    path = field.split(".")
    _section(values, path)[path[-1]] = value
    with pytest.raises(ConfigError) as caught:
        config.parse(values)
    message = str(caught.value)
    assert message.startswith(f"config.{field}: expected ")
    assert expected in message and f"got {value!r}" in message


def test_wrong_pieces_name_their_part():
    piece = ("1 epochs", "square", 0.1)
    values = small.default_values(student__schedule__pieces=(piece,))
    with pytest.raises(ConfigError, match="pieces.*shape: expected one of linear, cosine.*square"):
        config.parse(values)


def test_unknown_fields_are_refused_with_the_nearest():
    values = small.default_values().to_dict()
    values["student"]["batchsize"] = 3
    with pytest.raises(ConfigError) as caught:
        config.parse(values)
    message = str(caught.value)
    assert message.startswith("config.student.batchsize: there is no such field; ")
    assert "did you mean config.student.batch_size?" in message
    assert "config.student has backbone_weights, batch_size, dtype, duration" in message


def test_a_section_is_no_value():
    values = small.default_values().to_dict()
    values["loss"] = "kl"
    with pytest.raises(ConfigError, match="config.loss: expected a section.*got 'kl'"):
        config.parse(values)
    with pytest.raises(ConfigError, match="config: expected a section"):
        config.parse([1])  # pyright: ignore[reportArgumentType]


def test_choose_names_the_choices():
    assert config.choose("config.x", "b", {"a": 1, "b": 2}) == 2
    with pytest.raises(ConfigError) as caught:
        config.choose("config.x", "mixkt", {"ce": 1, "mixkd": 2})
    message = 'config.x: expected one of ce, mixkd, got "mixkt"; did you mean "mixkd"?'
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("7 steps", 7),
        ("1 step", 1),
        (" 2 epochs ", 12),  # 100 examples are 6 batches of 16
        ("0.5 epochs", 3),
        ("1 epoch", 6),
        ("160 examples", 10),
        ("1.6e2 examples", 10),
        ("1 example", 0),
        ("8 examples", 1),  # half a step is rounded up
        ("0 steps", 0),
    ],
)
def test_durations_in_steps(text, steps):
    assert Duration.parse(text).steps(num_examples=100, batch_size=16) == steps


@pytest.mark.parametrize(
    "text",
    ["", "steps", "1", "1.2.3 steps", "one epoch", "1 epochs 2", ".", "1e999 steps", "1e13 steps"],
)
def test_wrong_durations_are_refused(text):
    with pytest.raises(ValueError):
        Duration.parse(text)
