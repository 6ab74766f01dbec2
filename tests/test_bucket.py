"""A run whose folder is in a bucket: one of a server on this machine that speaks as GCS does."""

import http
import json
import logging
import pathlib

import pytest
import small
from etils import epath

from mixkd_jax import experiment, files
from mixkd_jax.config import ConfigError
from mixkd_jax.folder import Folder
from mixkd_jax.report import compare
from mixkd_jax.run import workdir
from mixkd_jax.training.preemption import Stopped

pytest.importorskip("gcp_storage_emulator", reason="needs gcp-storage-emulator, of the extra dev")
from gcp_storage_emulator import server  # noqa: E402
from gcp_storage_emulator.handlers import objects  # noqa: E402

pytestmark = pytest.mark.slow

VALUES = {
    "seeds": (0,),
    "arms": ("mixkd",),
    "teacher__model": "linear",
    "student__model": "linear",
    "analysis__pairs": 8,
    "analysis__corrupted_images": 0,
}
DOWNLOAD = objects.download


def _download(request, response, storage, *args, **kwargs):
    """What the server's own answer lacks of GCS': the generation, and a condition on it."""
    place = request.params["bucket_name"], request.params["object_id"]
    try:
        generation = storage.get_file_obj(*place)["generation"]
    except objects.NotFound:
        generation = None
    if generation and request.query.get("ifGenerationNotMatch") == [generation]:
        response.status = http.HTTPStatus.NOT_MODIFIED
        return
    if generation:
        response["x-goog-generation"] = generation
    DOWNLOAD(request, response, storage, *args, **kwargs)


@pytest.fixture(scope="module")
def bucket():
    """The address of an empty bucket."""
    logging.getLogger("gcp-storage-emulator").setLevel(logging.CRITICAL)
    emulator = server.create_server("localhost", 0, in_memory=True, default_bucket="bucket")
    with pytest.MonkeyPatch.context() as patch:
        handlers = [
            (regex, {m: _download if h is DOWNLOAD else h for m, h in own.items()})
            for regex, own in server.HANDLERS
        ]
        patch.setattr(server, "HANDLERS", handlers)
        patch.setattr(objects, "download", _download)
        with emulator:
            host, port = emulator._api._httpd.server_address[:2]
            patch.setenv("STORAGE_EMULATOR_HOST", f"http://{host}:{port}")
            patch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://{host}:{port}")
            patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "any")
            yield "gs://bucket"


def _run(folder, stop=lambda step: False):
    values = small.values(**VALUES)
    return small.run(folder, values, report=True, stop=stop, command="a command")


@pytest.fixture(autouse=True, scope="module")
def linear():
    with small.linear_models():
        yield


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The folder and the results of a run on this machine's disk."""
    folder = tmp_path_factory.mktemp("local") / "run"
    return folder, _run(folder)


@pytest.fixture(scope="module")
def remote(bucket, tmp_path_factory):
    """The same of a run in a bucket that was stopped once within each training."""
    folder = epath.Path(f"{bucket}/runs/a")
    asked = iter(range(1000))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("here"))
        for _ in range(2):
            with pytest.raises(Stopped):
                _run(folder, stop=lambda step: step in (5, 8) and next(asked) % 2 == 0)
        found = _run(folder)
        assert not list(pathlib.Path().iterdir())  # such as a folder of the name "gs:"
    return folder, found


def _without_time(found):
    return {name: value for name, value in found.items() if name != "time"}


def _names(folder):
    """Paths of all files but those of checkpoints; of event files, which are named by the time,
    the folders alone."""
    folder = epath.Path(folder)
    single = ("*.*", "figures/*", "tables/*", "teacher/*.json", "arms/*/*/*.json")
    events = ("tensorboard/teacher/*", "tensorboard/arms/*/*/*")
    return {str(path.relative_to(folder)) for glob in single for path in folder.glob(glob)} | {
        str(path.parent.relative_to(folder)) for glob in events for path in folder.glob(glob)
    }


@pytest.mark.slow
def test_a_run_in_a_bucket_has_the_results_and_lines_of_one_on_disk(local, remote):
    assert _without_time(remote[1]) == _without_time(local[1])
    for name in ("arms/mixkd/0/evaluation.json", "teacher/analysis.json"):
        assert (remote[0] / name).read_text() == (local[0] / name).read_text()
    assert small.lines(remote[0]) == small.lines(local[0]) and len(small.lines(local[0])) == 8


@pytest.mark.slow
def test_a_run_in_a_bucket_leaves_the_same_files(local, remote):
    want = _names(local[0])
    assert {"report.html", "figures/accuracy_ece.pdf", "tensorboard/teacher"} <= want
    assert _names(remote[0]) == want
    page = (remote[0] / "report.html").read_text()
    assert "a command" in page and "</html>" in page
    (png,) = remote[0].glob("figures/accuracy_ece.png")
    assert png.read_bytes() == (local[0] / "figures" / "accuracy_ece.png").read_bytes()


@pytest.mark.slow
def test_a_bucket_of_another_config_is_refused(remote):
    with pytest.raises(ConfigError, match=r"gs://bucket/runs/a holds a run of another config"):
        experiment.run(small.values(seed=3), remote[0], dataset=small.dataset())


@pytest.mark.slow
def test_runs_in_a_bucket_are_compared(local, remote, bucket):
    page = compare.write([local[0], remote[0]], f"{bucket}/compared")
    assert str(page) == f"{bucket}/compared/compare.html"
    assert "</html>" in page.read_text()


def test_text_is_appended(bucket, tmp_path):
    for folder in (tmp_path, f"{bucket}/lines"):
        path = epath.Path(folder) / "lines"
        files.append_text(path, "one\n")
        files.append_text(path, "two\n")
        assert path.read_text() == "one\ntwo\n"


def test_paths_of_buckets_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(files.absolute("gs://bucket/a")) == "gs://bucket/a"
    assert str(files.absolute("a")) == str(tmp_path / "a")
    assert str(files.absolute("~/a")) == str(pathlib.Path("~/a").expanduser())


def test_a_bucket_that_cannot_be_written_to_is_told(bucket):
    folder = Folder.at("gs://no-such-bucket/a")
    workdir.joined(folder, {})
    with pytest.raises(ConfigError) as caught:
        workdir.claim(folder, {}, "", {})
    assert str(caught.value).startswith(
        "--workdir: expected a bucket that can be written to, got gs://no-such-bucket/a: "
    )


def test_other_clouds_and_a_missing_library_are_told(monkeypatch):
    with pytest.raises(ConfigError, match=r"expected a folder or gs://bucket/folder, got s3://b/a"):
        workdir.joined(Folder.at("s3://b/a"), {})
    monkeypatch.setattr(workdir.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"gs://b/a needs gcsfs.*pip install 'mixkd-jax\[gcs\]'"):
        workdir.joined(Folder.at("gs://b/a"), {})


def test_config_is_json_in_a_bucket(bucket):
    folder, values = Folder.at(f"{bucket}/claimed"), {"a": 1, "arms": ["ce"], "seeds": [0]}
    workdir.claim(folder, values, "a command", {"name": "data"})
    assert json.loads(folder.config.read_text())["config"] == values
    grown = workdir.joined(folder, {**values, "arms": ["kd"]})
    assert grown == {"a": 1, "arms": ["ce", "kd"], "seeds": [0]}
    with pytest.raises(ConfigError, match=r"config.a is 1 there and 2 here"):
        workdir.joined(folder, {**values, "a": 2})
