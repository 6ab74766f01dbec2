"""Arms: what their text means, and all that is refused."""

import re

import pytest
import small

from mixkd_jax import config, objectives
from mixkd_jax.config import ConfigError, Mixup, arms

MIXED = Mixup(alpha=1.0, partial=1.0, per_example=True)


def _arm(text, **changes):
    (made,) = arms.resolve(config.parse(small.default_values(arms=(text,), **changes)))
    return made


def _refusal(*texts, **changes):
    with pytest.raises(ConfigError) as caught:
        arms.resolve(config.parse(small.default_values(arms=texts, **changes)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bases_are_what_they_are_called():
    for base, mixes, distils in (
        ("ce", False, False),
        ("mixup", True, False),
        ("kd", False, True),
        ("mixkd", True, True),
    ):
        arm = _arm(base, loss__ce_weight=0.2, mixup__alpha=0.4)
        assert (arm.text, arm.base) == (base, base)
        assert (arm.mixup is not None) == mixes and (arm.loss is not None) == distils
        assert arm.mixup is None or arm.mixup == Mixup(0.4, 1.0, True)
        if distils:
            assert arm.objective is objectives.kl and arm.options["ce_weight"] == 0.2
        else:
            assert arm.objective is objectives.cross_entropy and arm.options == {}


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("kd:temperature=4", {"temperature": 4.0}),
        ("kd:temperature=0.5:ce_weight=1e-1", {"temperature": 0.5, "ce_weight": 0.1}),
        ("mixkd:temperature=std", {"temperature": "std"}),
        ("mixkd:loss=std", {"temperature": "std"}),
        ("mixkd:loss=kl-ce", {"kd_weight": 0.8, "ce_weight": 0.2}),
        ("mixkd:loss=kl-ce:ce_weight=1", {"kd_weight": 0.8, "ce_weight": 1.0}),
    ],
)
def test_a_text_changes_the_loss_of_its_arm_alone(text, changed):
    defaults = {"temperature": 2.0, "kd_weight": 1.0, "ce_weight": 0.0}
    arm = _arm(text)
    assert arm.text == text and arm.options == defaults | changed
    assert arm.objective is objectives.kl
    settings = config.parse(small.default_values(arms=(text, "kd")))
    assert arms.resolve(settings)[1].options == defaults


def test_an_arm_changes_no_preset_for_others():
    assert _arm("mixkd:loss=kl-ce:ce_weight=1").options["ce_weight"] == 1
    assert _arm("mixkd:loss=kl-ce").options["ce_weight"] == 0.2


def test_what_an_arm_does_not_name_is_the_config_s():
    changes = {"loss__temperature": "3", "loss__ce_weight": 0.5, "loss__teacher_temperature": "2"}
    arm = _arm("kd:ce_weight=0.1", **changes)
    assert arm.options == {"temperature": 3.0, "kd_weight": 1.0, "ce_weight": 0.1}
    assert arm.loss is not None and arm.loss.teacher_temperature == 2.0
    # A loss of its own has its own options, but the same teacher.
    arm = _arm("kd:loss=lskd-mixkd:kd_weight=2", **changes)
    assert arm.objective is objectives.lskd
    assert arm.options == {"temperature": 2.0, "kd_weight": 2.0, "ce_weight": 0.1, "ddof": 0}
    assert arm.loss is not None and arm.loss.teacher_temperature == 2.0


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("mixup:alpha=0.3", Mixup(0.3, 1.0, True)),
        ("mixkd:partial=0.5:per_example=False", Mixup(1.0, 0.5, False)),
    ],
)
def test_a_text_changes_how_its_arm_mixes(text, want):
    assert _arm(text).mixup == want


@pytest.mark.parametrize(("text", "want"), [("0.5", 0.5), ("4", 4.0), ("fit", "fit")])
def test_the_teacher_s_temperature(text, want):
    for arm in (_arm(f"kd:teacher_temperature={text}"), _arm("kd", loss__teacher_temperature=text)):
        assert arm.loss is not None and arm.loss.teacher_temperature == want
    assert "teacher_temperature" not in arm.options


def test_an_arm_tells_what_it_is():
    assert _arm("mixkd:loss=dkd:teacher_temperature=fit:alpha=0.2").describe() == {
        "base": "mixkd",
        "loss": "dkd",
        "options": {
            "temperature": 4.0,
            "kd_weight": 1.0,
            "ce_weight": 1.0,
            "target_weight": 1.0,
            "nontarget_weight": 8.0,
        },
        "teacher_temperature": "fit",
        "mixup": {"alpha": 0.2, "partial": 1.0, "per_example": True},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "mixdk",
            'config.arms: expected one of ce, mixup, kd, mixkd, got "mixdk"; did you mean "mixkd"?',
        ),
        ("kd:", "expected field=value behind each colon, got ''"),
        ("kd:std", "expected field=value behind each colon, got 'std'"),
        ("kd:temperature=", "expected field=value behind each colon, got 'temperature='"),
        ("kd:temperature=2:temperature=3", "expected temperature once, got it twice"),
        ("kd:alpha=0.3", "expected no alpha: kd mixes nothing"),
        ("ce:temperature=2", "expected no temperature: ce has no teacher"),
        ("mixup:loss=dkd", "expected no loss: mixup has no teacher"),
        ("kd:temprature=2", 'got "temprature"; did you mean "temperature"?'),
        ("kd:ddof=1", 'expected one of temperature, kd_weight, ce_weight, loss, .*, got "ddof"'),
        ("kd:loss=dkl", 'loss: expected one of kl, lskd, dkd, rld, dist, kl-ce, .*got "dkl"; did'),
        ("kd:temperature=hot", "temperature: expected a finite number, or \"std\", got 'hot'"),
        ("kd:temperature=nan", "temperature: expected a finite number, or \"std\", got 'nan'"),
        ("kd:temperature=0", "temperature: expected a number from 1e-06 to 1e+06, got 0"),
        ("kd:temperature=-1", "temperature: expected a number from 1e-06 to 1e+06, got -1"),
        ("kd:temperature=1e7", "temperature: expected a number from 1e-06 to 1e+06, got 1e+07"),
        ("kd:kd_weight=-1", "kd_weight: expected a number from 0 to 1e+06, got -1"),
        ("kd:loss=dkd:temperature=std", "temperature: expected a finite number, got 'std'"),
        ("kd:loss=lskd:ddof=0.5", "ddof: expected an integer, got '0.5'"),
        ("kd:kd_weight=0", "expected a kd_weight or a ce_weight above 0, got 0 for both"),
        ("kd:teacher_temperature=0", "teacher_temperature: expected a number from 1e-06 to 1e+06"),
        ("kd:teacher_temperature=std", "teacher_temperature: expected .*or \"fit\", got 'std'"),
        ("mixup:alpha=-1", "alpha: expected a number of at least 0"),
        ("mixup:alpha=much", "alpha: expected a finite number, got 'much'"),
        ("mixup:partial=2", "partial: expected a number of at least 0 and at most 1, got 2"),
        ("mixup:per_example=no", "per_example: expected True or False, got 'no'"),
    ],
)
def test_what_is_wrong_is_refused_and_named(text, message):
    found = _refusal(text)
    pattern = re.escape(message).replace(r"\.\*", ".*")
    assert re.search(pattern, found), found
    assert found.startswith("config.arms")
    assert text in found or message.startswith("config.arms: ")


def test_a_wrong_field_of_the_config_is_named_as_such():
    assert _refusal("kd", loss__temperature="0").startswith("config.loss.temperature: expected")
    assert _refusal("kd", loss__kd_weight=0.0).startswith("config.loss: expected a kd_weight or")


def test_arms_are_named_once():
    assert "each once" in _refusal("kd", "ce", "kd")


# A loss of the user's own


def _own(student_logits, teacher_logits, labels, *, sharpness: float = 3.0, mode: int = 1):
    """Something of the user's own.

    Args:
      student_logits: f32[B, C].
      teacher_logits: f32[B, C].
      labels: f32[B, C].
      sharpness: how sharp.
      mode: of it.
    """
    loss = sharpness * ((student_logits - teacher_logits) ** mode).mean(-1)
    return loss, {"distance": loss}


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setitem(objectives.OBJECTIVES, "own", _own)


def test_a_loss_of_the_users_own_is_a_name_with_options(own):
    arm = _arm("mixkd:loss=own:sharpness=2:mode=4")
    assert arm.objective is _own and arm.options == {"sharpness": 2.0, "mode": 4}
    arm = _arm("kd", loss__name="own", loss__sharpness=5.0)
    assert arm.options == {"sharpness": 5.0, "mode": 1}
    assert "config.loss.sharpness" in config.markdown()
    assert "how sharp" in config.markdown()
    assert 'did you mean "sharpness"' in _refusal("kd:loss=own:sharpnes=3")
    assert "mode: expected an integer, got '1.5'" in _refusal("kd:loss=own:mode=1.5")


def test_a_wrong_loss_of_the_users_own_is_refused_before_training(monkeypatch, tmp_path):
    monkeypatch.setitem(objectives.OBJECTIVES, "own", lambda s, t, y: s)
    want = r"loss own: expected \(loss, parts\) with parts a dict"
    with pytest.raises(ConfigError, match=want):
        small.run(tmp_path / "a", small.values(arms=("kd:loss=own",)))
    assert not (tmp_path / "a").exists()
