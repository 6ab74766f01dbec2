"""The analysis of a run, from its checkpoints."""

import json

import pytest

from mixkd_jax import experiment
from mixkd_jax.configs import digits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config():
    values = digits.get_config()
    changes = {
        "arms": ("ce", "mixkd"),
        "seeds": (0,),
        "data.test_examples": 40,
        "analysis.pairs": 50,
        "analysis.path_pairs": 4,
        "analysis.corrupted_images": 20,
    }
    for model in ("teacher", "student"):
        changes |= {f"{model}.duration": "8 steps", f"{model}.batch_size": 40}
    values.update_from_flattened_dict(changes)
    return values


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "a"
    experiment.run(config, folder)
    return folder


def contents(folder):
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".html", ".csv", ".tex"))
    return {str(p): p.read_bytes() for p in files}


def test_a_run_is_analysed_at_its_end(folder):
    for name in ("teacher", "arms/ce/0", "arms/mixkd/0"):
        found = json.loads((folder / name / "analysis.json").read_text())
        assert found["step"] == 8
        assert found["splits"]["test"]["images"] == 40
        assert found["corruption"]["images"] == 20
        assert found["splits"]["train"]["pairs"] == 50
        assert ("cka" in found["splits"]["test"]) == (name != "teacher")
        assert json.loads((folder / name / "time.json").read_text())["analyse"] > 0


def test_analysing_again_changes_no_file(config, folder):
    before = contents(folder)
    experiment.run(config, folder, mode="analyze")
    assert contents(folder) == before


def test_only_what_is_lacking_is_analysed_at_the_end(config, folder):
    lacking, kept = folder / "arms/ce/0/analysis.json", folder / "arms/mixkd/0/analysis.json"
    before, stamp = lacking.read_bytes(), kept.stat().st_mtime_ns
    lacking.unlink()
    experiment.run(config, folder)
    assert lacking.read_bytes() == before and kept.stat().st_mtime_ns == stamp
