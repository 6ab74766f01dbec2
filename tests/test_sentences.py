import pytest
import run_folders

from mixkd_jax.report import results, sentences
from mixkd_jax.report.records import read


def made(root, mixkd, ce, seeds=3):
    """Sentences of a run whose (accuracy, ECE) are those."""
    run_folders.make(root, arms=("ce", "mixkd"), seeds=seeds)
    for arm, (accuracy, ece) in (("mixkd", mixkd), ("ce", ce)):
        run_folders.set_metric(root, arm, "accuracy", accuracy[:seeds])
        run_folders.set_metric(root, arm, "ece", ece[:seeds])
    return sentences.comparisons(results.collect(root))


CE = ([0.70, 0.71, 0.72], [0.08, 0.08, 0.08])


@pytest.mark.parametrize(
    ("mixkd", "expected"),
    [
        (
            ([0.80, 0.82, 0.82], [0.03, 0.04, 0.04]),
            "mixkd is ahead of ce by 10.3 points [8.9, 11.8] in 3 of 3 seeds;"
            " its ECE is 4.3 points lower [2.9, 5.8].",
        ),
        (
            ([0.60, 0.61, 0.62], [0.18, 0.18, 0.18]),
            "mixkd is behind ce by 10.0 points [10.0, 10.0] in 3 of 3 seeds;"
            " its ECE is 10.0 points higher [10.0, 10.0].",
        ),
        (
            ([0.70, 0.72, 0.71], [0.08, 0.09, 0.07]),
            "mixkd against ce: no difference in accuracy shown, +0.0 points [-2.5, +2.5];"
            " none in ECE, +0.0 points [-2.5, +2.5].",
        ),
        (
            ([0.80, 0.81, 0.82], [0.08, 0.09, 0.07]),
            "mixkd is ahead of ce by 10.0 points [10.0, 10.0] in 3 of 3 seeds;"
            " no difference in ECE shown, +0.0 points [-2.5, +2.5].",
        ),
        (
            ([0.70, 0.72, 0.71], [0.03, 0.04, 0.04]),
            "mixkd against ce: no difference in accuracy shown, +0.0 points [-2.5, +2.5];"
            " mixkd's ECE is 4.3 points lower [2.9, 5.8].",
        ),
    ],
)
def test_a_comparison_is_one_sentence(tmp_path, mixkd, expected):
    (found,) = made(tmp_path, mixkd, CE)
    assert found.replace("-0.0", "+0.0") == expected


def test_one_seed_shows_no_interval(tmp_path):
    (found,) = made(tmp_path, ([0.8], [0.04]), CE, seeds=1)
    assert found.startswith("mixkd - ce: accuracy +10.0 points, ECE -4.0 points in the one seed")


def test_one_arm_is_described(tmp_path):
    run_folders.make(tmp_path, arms=("mixkd",), seeds=2)
    run_folders.set_metric(tmp_path, "mixkd", "accuracy", [0.8, 0.9])
    run_folders.set_metric(tmp_path, "mixkd", "ece", [0.02, 0.04])
    found = sentences.comparisons(results.collect(tmp_path))
    assert found == ["mixkd: accuracy 85.0 %, ECE 3.0 %."]


def test_the_bases_are_compared_in_the_order_of_their_interest(tmp_path):
    run_folders.make(tmp_path, seeds=2)
    found = sentences.comparisons(results.collect(tmp_path))
    starts = [("mixkd", "ce"), ("mixkd", "kd"), ("mixkd", "mixup"), ("kd", "ce")]
    assert len(found) == 4
    for sentence, (ours, theirs) in zip(found, starts, strict=True):
        assert sentence.startswith(f"{ours} ") and f" {theirs}" in sentence


@pytest.mark.parametrize("data", [{"name": 5}, {"name": "a", "image_shape": 3, "test": "x"}, {}])
def test_facts_of_strange_types_are_left_out(tmp_path, data):
    config = {"teacher": "cnn", "student": {"model": 3}}
    run_folders.make(tmp_path, arms=("ce",), seeds=2, config=config, data=data)
    records = read(tmp_path)
    facts = sentences.facts(records, results.summarize(records))
    assert facts[-1] == "1 arm, 2 seeds (0, 1), students after step 40"
    assert len(facts) == (2 if data.get("name") == "a" else 1)


def test_verdicts_take_one_line(tmp_path):
    run_folders.make(tmp_path, arms=("ce",), seeds=1)
    found = sentences.verdicts(results.collect(tmp_path))
    assert found == "not testable here: C1, C2, C3, C4, C5, C6."


def test_an_interval_that_ends_near_0_is_not_rounded_to_it():
    found = {"mean": 0.02, "low": 0.0003, "high": 0.0397}
    assert sentences._points(found) == "2.0 points [0.03, 3.97]"
    assert sentences._points({**found, "low": 0.0006}) == "2.0 points [0.1, 4.0]"
