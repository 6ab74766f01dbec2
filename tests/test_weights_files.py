"""Damaged and hostile Keras files are refused, with one clear message."""

import marshal
import pickle
import zipfile

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="needs h5py: pip install 'mixkd-jax[weights]'")

import keras_files as files  # noqa: E402

from mixkd_jax.weights import WeightsError  # noqa: E402


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
def test_truncated_files_are_refused(tmp_path, suffix):
    write = {".keras": files.write_keras, ".weights.h5": files.write_h5, ".h5": files.write_legacy}[
        suffix
    ]
    whole = write(tmp_path / f"whole{suffix}").read_bytes()
    for share in (0, 0.0001, 0.01, 0.3, 0.9, 0.999):
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(whole[: int(share * len(whole))])
        files.assert_refused(path, "damaged|expected a zip")


def test_flipped_bytes_of_a_zip_are_noticed(tmp_path):
    whole = bytearray(files.write_keras(tmp_path / "whole.keras").read_bytes())
    for position in np.random.default_rng(0).integers(len(whole) // 4, len(whole) // 2, 5):
        damaged = bytearray(whole)
        damaged[position] ^= 255
        path = tmp_path / "damaged.keras"
        path.write_bytes(damaged)
        files.assert_refused(path, "Bad CRC-32")


def test_damaged_structure_gives_no_other_error(tmp_path):
    """Bytes flipped anywhere in an HDF5 file: values may change unseen, but nothing else breaks."""
    whole = files.write_h5(tmp_path / "whole.weights.h5").read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for position in rng.integers(0, 4096, 60):
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        path = tmp_path / "damaged.weights.h5"
        path.write_bytes(damaged)
        try:
            files.load(path)
        except WeightsError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize(
    ("position", "content", "message"),
    [
        (52041, bytes([223]), "the HDF5 library failed on it"),
        pytest.param(2848, bytes(16), "the HDF5 library|damaged", marks=pytest.mark.slow),
        pytest.param(2856, slice(384176, 384340), "HDF5 library|damaged", marks=pytest.mark.slow),
    ],
)
def test_what_crashes_or_stalls_the_hdf5_library_is_refused(tmp_path, position, content, message):
    """Found by changing bytes at random; what the library does may vary with its version."""
    whole = files.write_legacy(tmp_path / "a.h5").read_bytes()
    content = whole[content] if isinstance(content, slice) else content
    path = tmp_path / "b.h5"
    path.write_bytes(whole[:position] + content + whole[position + len(content) :])
    files.assert_refused(path, message)


def test_names_that_are_not_utf8_are_refused(tmp_path):
    def edit(file):
        group = file["layers"].id
        group.links.move(b"dense", group, b"dens\xff")

    files.assert_refused(files.write_h5(tmp_path / "a.weights.h5", edit), "isn't UTF-8")


def test_types_that_numpy_lacks_are_refused(tmp_path):
    """Such as integers of 12 bits in 2 bytes, which h5py would convert."""

    def edit(file):
        del file["layers/dense/vars/1"]
        kind = h5py.h5t.STD_I16LE.copy()
        kind.set_precision(12)
        space = h5py.h5s.create_simple((3,))
        made = h5py.h5d.create(file.id, b"layers/dense/vars/1", kind, space)
        made.write(space, space, np.zeros(3, "int16"))

    path = files.write_h5(tmp_path / "a.weights.h5", edit)
    files.assert_refused(path, "has a type that NumPy hasn't: int16")


def test_values_in_pieces_are_refused(tmp_path):
    def edit(file):
        del file["layers/dense/vars/1"]
        file.create_dataset("layers/dense/vars/1", data=np.zeros(3, "float32"), chunks=(1,))

    files.assert_refused(files.write_h5(tmp_path / "a.weights.h5", edit), "isn't stored in one")


@pytest.mark.parametrize("dtype", [">f4", "<f8", "<f2"])
def test_floats_of_other_kinds_are_read(tmp_path, dtype):
    def edit(file):
        del file["layers/dense/vars/1"]
        file["layers/dense/vars/1"] = np.array([1.5, -2, 0.25], dtype)

    loaded = files.load(files.write_h5(tmp_path / "a.weights.h5", edit))
    np.testing.assert_array_equal(loaded["params"]["head"]["logits"]["bias"], [1.5, -2, 0.25])


def test_other_files_are_refused(tmp_path):
    files.assert_refused(tmp_path / "absent.keras", "No such file")
    path = tmp_path / "pointer.keras"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    files.assert_refused(
        path, r"expected a zip .*, HDF5 or safetensors file; it begins with b.version ."
    )
    files.assert_refused(
        files.write_zip(tmp_path / "a.keras", [("config.json", "{}")]),
        "expected one model.weights.h5",
    )
    members = [("config.json", "{"), ("model.weights.h5", files.h5_content())]
    files.assert_refused(
        files.write_zip(tmp_path / "b.keras", members), "config.json is no valid JSON"
    )


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "C:evil"])
def test_members_that_leave_the_folder_are_refused(tmp_path, name):
    path = files.write_keras(tmp_path / "a.keras", extra=[(name, b"x")])
    files.assert_refused(path, "has an unsafe name")
    assert [item.name for item in tmp_path.iterdir()] == ["a.keras"]


def test_decompression_bombs_are_refused(tmp_path):
    members = [("config.json", "{}"), ("model.weights.h5", bytes(50 * 2**20))]
    path = files.write_zip(tmp_path / "a.keras", members, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    files.assert_refused(path, "refused as a decompression bomb")


def test_a_member_that_lies_about_its_size_is_refused(tmp_path):
    """The directory of the zip declares fewer bytes than the member has."""
    path = files.write_keras(tmp_path / "a.keras")
    whole = bytearray(path.read_bytes())
    start = whole.rindex(b"PK\x01\x02")  # the last entry is model.weights.h5's
    size = int.from_bytes(whole[start + 24 : start + 28], "little")
    whole[start + 24 : start + 28] = (size - 1000).to_bytes(4, "little")
    path.write_bytes(whole)
    files.assert_refused(path, "damaged|hasn't the")


def test_two_members_of_one_name_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = files.write_keras(tmp_path / "a.keras", extra=[("model.weights.h5", b"x")])
    files.assert_refused(path, "expected one model.weights.h5 in the zip, got 2")


def _link(kind):
    def edit(file):
        del file["layers/dense/vars/1"]
        target = "/layers/batch_normalization/vars/1"
        link = {
            "soft": h5py.SoftLink(target),
            "external": h5py.ExternalLink("/etc/hostname", target),
            "hard": file[target],
        }[kind]
        file["layers/dense/vars/1"] = link

    return edit


def _loop(file):
    file["layers/dense/vars/again"] = file["layers"]


def _external_values(file):
    del file["layers/dense/vars/1"]
    file.create_dataset("layers/dense/vars/1", (3,), "float32", external=[("/etc/hostname", 0, 12)])


def _virtual_values(file):
    del file["layers/dense/vars/1"]
    layout = h5py.VirtualLayout((3,), "float32")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (3,))
    file.create_virtual_dataset("layers/dense/vars/1", layout)


def _compressed(file):
    del file["layers/dense/vars/1"]
    file.create_dataset("layers/dense/vars/1", data=np.zeros(3, "float32"), compression="gzip")


def _hollow(file):
    file.create_dataset("layers/bomb/vars/0", (2**40,), "float32", chunks=(1024,))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_link("soft"), "layers/dense/vars/1 is an external or soft link"),
        (_link("external"), "layers/dense/vars/1 is an external or soft link"),
        (_link("hard"), "is linked twice"),
        (_loop, "is linked twice"),
        (_external_values, "layers/dense/vars/1 has its values in another file"),
        (_virtual_values, "layers/dense/vars/1 has its values in another file"),
        (_compressed, "layers/dense/vars/1 is compressed"),
        (_hollow, r"layers/bomb/vars/0 declares shape \(1099511627776,\), but stores fewer"),
    ],
)
def test_hdf5_features_that_reach_out_or_blow_up_are_refused(tmp_path, edit, message):
    files.assert_refused(files.write_h5(tmp_path / "a.weights.h5", edit), message)


def test_lambda_bytecode_is_never_loaded(tmp_path, monkeypatch):
    """The configuration of a Lambda layer holds marshalled code; here nothing unmarshals it."""
    ran = []
    for module, name in ((marshal, "loads"), (pickle, "loads"), (pickle, "load")):
        monkeypatch.setattr(module, name, lambda *args, **kwargs: ran.append(args))
    code = "4wEAAAAAAAAAAAAAAAEAAAADAAAA8wYAAACXAHwAUwCpAU4="
    function = {"class_name": "__lambda__", "config": {"code": code, "defaults": None}}
    layer = {"class_name": "Lambda", "config": {"name": "identity", "function": function}}
    config = {"class_name": "Functional", "config": {"layers": [layer]}}
    files.assert_loads(files.write_keras(tmp_path / "a.keras", config=config))
    assert not ran
