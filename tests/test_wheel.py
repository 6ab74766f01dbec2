"""The wheel, as pip installs it: its command, and the configs within."""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SHORT = (
    *("--config.seeds=0", "--config.arms=ce", "--config.teacher.duration=3 steps"),
    *("--config.student.duration=3 steps", "--config.analysis.pairs=0"),
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs a command line where the wheel is installed, in a folder of its own, and returns it."""
    home = tmp_path_factory.mktemp("home")
    # Without --ignore-installed pip would uninstall what the environment has of this package.
    pip = [sys.executable, "-m", "pip", "install", "--ignore-installed", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--quiet", f"--target={home}", str(wheel)], check=True)
    environment = os.environ | {
        "PATH": os.pathsep.join([str(home / "bin"), os.environ["PATH"]]),
        **{"PYTHONPATH": str(home), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    }

    def run(line):
        return subprocess.run(
            shlex.split(line), cwd=home, env=environment, capture_output=True, text=True
        )

    return run


def test_every_config_is_in_the_wheel_once(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    found = [name for name in names if re.fullmatch(r"mixkd_jax/configs/\w+\.py", name)]
    want = [f"mixkd_jax/configs/{file.name}" for file in (ROOT / "configs").glob("*.py")]
    assert sorted(found) == sorted([*want, "mixkd_jax/configs/__init__.py"])
    assert not [name for name in names if name.startswith("configs/")]


def test_the_command_takes_names_of_configs_and_goes_on(run, tmp_path):
    told = run("mixkd --help").stdout
    assert "mixkd --config=digits\n" in told and "\n  imagenet  ImageNet" in told
    done = run(shlex.join(["mixkd", "--config=digits", f"--workdir={tmp_path}/a", *SHORT]))
    assert done.returncode == 0, done.stderr
    assert "\nce " in done.stdout
    done = run(f"mixkd --workdir={tmp_path}/a --mode=evaluate")
    assert done.returncode == 0, done.stderr
    assert "(finished: all 2 models are trained)" in done.stderr


def test_a_path_is_a_config_too(run, tmp_path):
    copied = tmp_path / "mine.py"
    copied.write_text((ROOT / "configs" / "cifar.py").read_text())
    done = run(f"mixkd --config={copied}:teacher=resnet9")
    assert done.returncode == 1
    assert "config argument teacher: expected one of wrn-16-1" in done.stderr
