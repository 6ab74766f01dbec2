import base64
import io

import pytest
import run_folders
from PIL import Image

from mixkd_jax.report import gallery
from mixkd_jax.report.records import read


def picture(grey=100):
    buffer = io.BytesIO()
    Image.new("L", (8, 8), grey).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def example(pair, **fields):
    found = {"pair": pair, "lam": 0.25, "labels": [0, 2], "rule": "least linear"}
    found |= {"classes": [2, 0, 1], "probabilities": [0.6, 0.3, 0.1], "image": picture()}
    return {name: value for name, value in (found | fields).items() if value is not None}


@pytest.fixture
def root(tmp_path):
    data = {"name": "photos", "class_names": ["cat", "dog", "eel"]}
    runs = run_folders.make(tmp_path, arms=("ce", "mixkd"), seeds=2, data=data)
    run_folders.add_analyses(tmp_path, runs)
    return tmp_path


def add(root, model, examples):
    run_folders.change(root / model / "analysis.json", "examples", examples)


def test_examples_are_those_of_the_teacher_with_all_models(root):
    add(root, "teacher", [example(3), example(5)])
    add(root, "arms/mixkd/0", [example(5, image=None, classes=[0, 2], probabilities=[0.9, 0.1])])
    first, second = gallery.examples(read(root))
    assert first.labels == ["cat", "eel"] and first.lam == 0.25 and first.rule == "least linear"
    assert [prediction.model for prediction in first.predictions] == ["teacher"]
    teacher, student = second.predictions
    assert teacher.classes[0] == ("eel", 60)
    assert student == ("mixkd", [("cat", 90), ("eel", 10)])


def test_a_student_may_add_examples_with_images(root):
    add(root, "teacher", [example(3)])
    add(
        root, "arms/mixkd/0", [example(3, image=None), example(7, rule=None), example(8, image="x")]
    )
    found = gallery.examples(read(root))
    assert [len(one.predictions) for one in found] == [2, 1]
    assert found[1].rule == ""


def test_what_a_student_adds_has_its_teacher_too(root):
    teacher = {"classes": [1, 2], "probabilities": [0.8, 0.2]}
    add(root, "teacher", [example(3)])
    add(root, "arms/mixkd/0", [example(7, teacher=teacher)])
    own = gallery.examples(read(root))[1]
    assert [prediction.model for prediction in own.predictions] == ["teacher", "mixkd"]
    assert own.predictions[0].classes == [("dog", 80), ("eel", 20)]


@pytest.mark.parametrize("image", ["", "no base64!", base64.b64encode(b"GIF89a").decode(), 5, None])
def test_what_is_no_png_is_not_shown(root, image):
    add(root, "teacher", [example(3, image=image)])
    assert gallery.examples(read(root)) == []


def test_malformed_examples_leave_the_analysis_out(root):
    add(root, "teacher", [example(3, probabilities="high")])
    records = read(root)
    assert gallery.examples(records) == [] and "teacher" not in records.analyses
    assert "examples[0].probabilities: expected a list" in records.warnings[0]


def test_labels_without_names_are_numbers(root):
    add(root, "teacher", [example(3, labels=[1, 9])])
    assert gallery.examples(read(root))[0].labels == ["dog", "9"]


def test_without_examples_there_is_no_gallery(root):
    assert gallery.examples(read(root)) == []
