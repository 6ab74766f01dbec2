"""Walks every public name of the ops: documented, keyword-only options, tested."""

import inspect
import pathlib
import re

import pytest

from mixkd_jax import calibration, losses, mixup, representation, vicinal

OPS = (mixup, losses, calibration, vicinal, representation)
MODULES = {m.__name__.rpartition(".")[2]: m for m in OPS}
NAMES = [(m, name) for m, module in MODULES.items() for name in module.__all__]
FUNCTIONS = [(m, n) for m, n in NAMES if inspect.isfunction(getattr(MODULES[m], n))]
TESTS = pathlib.Path(__file__).parent

# What each function takes by position; everything else is an option, by keyword alone.
POSITIONAL = {
    "key", "batch_size", "plan", "x", "y", "lam", "x_i", "x_j",
    "student_logits", "teacher_logits", "labels", "logits", "probs", "bins", "p", "q",
    "probs_i", "probs_j", "probs_mix", "labels_i", "labels_j",
}  # fmt: skip

SIGNATURES = {
    "sample_mixup": "key, batch_size, *, alpha=1.0, partial=1.0, per_example=True",
    "apply_mixup": "plan, x",
    "distillation_kl": "student_logits, teacher_logits, *, temperature=1.0, axis=-1, where=None",
    "cross_entropy": "logits, labels, *, axis=-1",
    "distillation_loss": "student_logits, teacher_logits, labels=None, *, temperature=1.0, "
    "kd_weight=1.0, ce_weight=0.0, axis=-1, where=None",
    "logit_standardization_kl": "student_logits, teacher_logits, *, temperature=2.0, ddof=0",
    "decoupled_kl": "student_logits, teacher_logits, labels, *, temperature=4.0, "
    "target_weight=1.0, nontarget_weight=8.0",
    "sample_confidence_kl": "student_logits, teacher_logits, labels, *, temperature=1.0",
    "masked_correlation_kl": "student_logits, teacher_logits, labels, *, temperature=4.0",
    "relational_loss": "student_logits, teacher_logits, *, temperature=1.0, inter_weight=1.0, "
    "intra_weight=1.0",
    "calibration_bins": "probs, labels, *, num_bins=15, where=None",
    "expected_calibration_error": "bins, labels=None",
    "debiased_l2_calibration_error": "bins, labels=None",
    "classwise_adaptive_calibration_error": "probs, labels, *, num_bins=15",
    "smooth_calibration_error": "probs, labels",
    "area_under_risk_coverage": "probs, labels",
    "standardize": "logits, *, ddof=0",
    "linear_cka": "x, y, *, unbiased=True",
    "adaptive_calibration_error": "probs, labels, *, num_bins=15",
    "classwise_calibration_error": "probs, labels, *, num_bins=15",
    "fit_temperature": "logits, labels",
    "nonlinearity": "probs_i, probs_j, probs_mix, lam",
    "pair_mass": "probs_mix, labels_i, labels_j",
}


def get(module, name):
    return getattr(MODULES[module], name)


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_documented(module, name):
    doc = inspect.getdoc(get(module, name)) or ""
    assert doc and (MODULES[module].__doc__ or "")
    if inspect.isfunction(get(module, name)):
        for heading in ("Args:", "Returns:", "Example:", "Reference", ">>> "):
            assert heading in doc, f"{name} lacks {heading}"
        for argument in inspect.signature(get(module, name)).parameters:
            assert re.search(rf"^  {argument}: ", doc, re.M), (
                f"{name} doesn't say what {argument} is"
            )
    else:
        assert "Attributes:" in doc


@pytest.mark.parametrize(("module", "name"), FUNCTIONS)
def test_options_are_keyword_only_and_the_key_comes_first(module, name):
    parameters = inspect.signature(get(module, name)).parameters
    for i, parameter in enumerate(parameters.values()):
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert parameter.default is not parameter.empty, f"{parameter.name} has no default"
        else:
            assert parameter.name in POSITIONAL
        assert parameter.name != "reduction"
        assert (parameter.name == "key") <= (i == 0)
        assert not parameter.name.endswith(("rng", "seed"))


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature_is_stable(name):
    (module,) = (m for m, n in NAMES if n == name)
    got = ", ".join(
        str(p.replace(annotation=p.empty))
        for p in inspect.signature(get(module, name)).parameters.values()
    )
    assert got == SIGNATURES[name].replace(" *,", "")
    options = SIGNATURES[name].partition("*, ")[2]
    for option in filter(None, (o.partition("=")[0].strip() for o in options.split(","))):
        assert inspect.signature(get(module, name)).parameters[option].kind.name == "KEYWORD_ONLY"


@pytest.mark.parametrize(("module", "name"), FUNCTIONS)
def test_hints_say_what_is_taken(module, name):
    for argument, hint in inspect.get_annotations(get(module, name)).items():
        assert hint != "Any" or name == "apply_mixup", f"{argument} may be anything"


@pytest.mark.parametrize(("module", "name"), FUNCTIONS)
def test_covered_by_a_numerical_test(module, name):
    texts = [path.read_text(encoding="utf-8") for path in TESTS.glob(f"test_{module}*.py")]
    assert any(f"{module}.{name}" in text for text in texts)


@pytest.mark.parametrize("module", MODULES)
def test_nothing_public_is_left_out_of_all(module):
    for name, value in vars(MODULES[module]).items():
        ours = inspect.isfunction(value) and value.__module__.startswith("mixkd_jax")
        if ours and not name.startswith("_"):
            assert name in MODULES[module].__all__
