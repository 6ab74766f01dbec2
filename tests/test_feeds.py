import collections
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax.sharding import PartitionSpec as P

from mixkd_jax import data, mixup
from mixkd_jax.data.device import Augmentation, Batching, Loaded, Shuffled
from mixkd_jax.data.folder import ImageFiles
from mixkd_jax.data.stream import Batches, Stream
from mixkd_jax.evaluation.evaluate import evaluate
from mixkd_jax.evaluation.predict import create_predict
from mixkd_jax.training import group, sharding
from mixkd_jax.training.feeds import OnDevice, Streamed
from mixkd_jax.training.fit import Steps
from mixkd_jax.training.preemption import Stopped
from mixkd_jax.training.programs import Programs
from mixkd_jax.training.randomness import stream
from mixkd_jax.training.step import draw_batch

SHAPE = (8, 8, 3)
BATCH = 16
STEPS = Steps(total=10, per_epoch=4, log=4, validate=4, checkpoint=4)
KEY = 5
KEY_0 = jax.random.key(0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """64 training images and 40 test images as PNG files, all of one size."""
    return small.folder(tmp_path_factory.mktemp("images"), small.dataset(shape=SHAPE))


@pytest.fixture(scope="module")
def mesh():
    return sharding.data_mesh()


@pytest.fixture(scope="module")
def split(root):
    return data.load("folder", data_dir=root).train


@pytest.fixture(scope="module", params=["device", "stream"])
def either(request, root, mesh, split):
    """The same images, on the devices or streamed."""
    return OnDevice.put(split, mesh) if request.param == "device" else _streamed(root, mesh)


def _streamed(root, mesh, **options) -> Streamed:
    """Whole images, unless `options` say otherwise, in training too."""
    sources = data.open_sources("folder", data_dir=root)
    whole = {"image_size": 8, "resize": 8, "augmentation": "resize_crop", "flip": False}
    return Streamed(Stream(sources.train, **(whole | options)), mesh)


def _key(mesh):
    return jax.device_put(jax.random.key(KEY), sharding.replicated(mesh))


def test_both_have_what_the_folder_has(either, split):
    assert len(either) == 64
    assert either.image_shape == SHAPE
    labels = either.labels(np.arange(64))
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, split.labels)
    assert len(set(split.labels.tolist())) == small.CLASSES  # or their order would show nothing


def test_both_take_images_and_labels_in_the_order_of_the_indices(either, split):
    indices = np.array([63, 0, 0, 5, 17, 40, 5, 1] * 2)
    images = either.take(indices)
    assert images.dtype == np.uint8 and images.sharding.spec == P("data")
    assert [shard.data.shape for shard in images.addressable_shards] == [(2, *SHAPE)] * 8
    np.testing.assert_array_equal(images, split.images[indices])
    np.testing.assert_array_equal(either.labels(indices), split.labels[indices])


def test_an_epoch_has_every_example_once(either, split):
    """As batches that a step makes of its feed, without augmentation."""
    how = Batching(BATCH, small.CLASSES, Augmentation())
    feed = either.feeds(_key(either.mesh), BATCH, pairs=False)
    draw = jax.jit(lambda feed, step: draw_batch(how, either.mesh, feed, KEY_0, step, None))
    drawn = [draw(feed(step), np.int32(step)) for step in range(4)]
    images = np.concatenate([batch.images for batch in drawn])
    labels = np.concatenate([np.argmax(batch.labels, -1) for batch in drawn])

    def ordered(images, labels):
        return sorted((image.tobytes(), label) for image, label in zip(images, labels, strict=True))

    assert ordered(images.astype(np.uint8), labels) == ordered(split.images, split.labels)
    assert not np.array_equal(images, split.images)  # shuffled


def test_a_feed_is_a_function_of_key_and_step(either):
    def batches(key, steps):
        feed = either.feeds(jax.device_put(key, _key(either.mesh).sharding), BATCH, pairs=True)
        return {step: small.bits(feed(step)) for step in steps}

    forth = batches(jax.random.key(KEY), range(6))
    assert batches(jax.random.key(KEY), [5, 0, 3, 4]) == {s: forth[s] for s in (5, 0, 3, 4)}
    assert batches(jax.random.key(KEY + 1), [0]) != {0: forth[0]}


def test_a_feed_on_the_device_is_the_same_for_an_epoch(mesh, split):
    feed = OnDevice.put(split, mesh).feeds(_key(mesh), BATCH, pairs=True)
    orders = [feed(step).order for step in range(9)]
    assert all(isinstance(feed(step), Shuffled) for step in (0, 8))
    for step, order in enumerate(orders):
        assert np.array_equal(order, orders[step // 4 * 4])
    assert not np.array_equal(orders[0], orders[4])


def _batches(images, **options):
    """What the stream of images gives by itself."""
    seed = int(jax.random.bits(jax.random.key(KEY), dtype="uint32"))
    return Batches(images.stream, batch_size=BATCH, seed=seed, pairs=True, **options)


def test_a_streamed_feed_is_the_streams_batch_split_over_the_devices(root, mesh):
    images = _streamed(root, mesh, augmentation="random_resized_crop", flip=True)
    own, other, skipped = images.feeds(_key(mesh), BATCH, pairs=True)(3)
    assert not np.any(skipped)
    for array in (*own, *other):
        assert array.sharding.spec == P("data")
        assert [len(shard.data) for shard in array.addressable_shards] == [2] * 8
    want = next(_batches(images).start(3))
    np.testing.assert_array_equal(own.images, want.images)
    np.testing.assert_array_equal(own.labels, want.labels)
    np.testing.assert_array_equal(other.images, want.partner_images)
    np.testing.assert_array_equal(other.labels, want.partner_labels)
    assert images.feeds(_key(mesh), BATCH, pairs=False)(3).other is None


@pytest.mark.parametrize("partial", [1.0, 0.5])
def test_a_streamed_batch_is_mixup_of_the_batch_with_its_partners(root, mesh, partial):
    feed = _streamed(root, mesh).feeds(_key(mesh), BATCH, pairs=True)(0)
    assert isinstance(feed, Loaded)
    how, key = Batching(BATCH, small.CLASSES, Augmentation()), jax.random.key(1)
    mixing = {"alpha": 1.0, "partial": partial}
    draw = jax.jit(lambda feed: draw_batch(how, mesh, feed, key, jnp.int32(2), mixing))
    batch = draw(feed)
    assert batch.images.sharding.spec == P("data")

    x_i, x_j = (np.asarray(part.images, np.float64) for part in (feed.own, feed.other))
    partner = np.array([np.flatnonzero((x_i == x).all((1, 2, 3)))[0] for x in x_j])
    assert sorted(partner) == list(range(BATCH))  # every image is the partner of one
    plan = mixup.sample_mixup(stream(key, "mixup", 2), BATCH, **mixing)
    lam = np.asarray(plan.lam, np.float64)
    assert (lam == 1).any() == (partial < 1)
    weight = lam[:, None, None, None]
    np.testing.assert_allclose(batch.images, weight * x_i + (1 - weight) * x_j, rtol=1e-5)
    mixed = mixup.apply_mixup(mixup.MixupPlan(plan.lam, partner), feed.own.images)
    np.testing.assert_allclose(batch.images, mixed, rtol=1e-6)
    y = np.eye(small.CLASSES)[feed.own.labels]
    np.testing.assert_allclose(
        batch.labels, lam[:, None] * y + (1 - lam[:, None]) * y[partner], rtol=1e-5, atol=1e-7
    )


def _fit(folder, images):
    """Distils on mixed images."""
    return small.linear_fit(folder, "mixkd", mesh=images.mesh, split=images, steps=STEPS)


@pytest.fixture(scope="module")
def known():
    """What is compiled for one test needn't be for the next."""
    return Programs()


def _train(folder, images, known, stop=lambda step: False):
    fit, states = _fit(folder, images), []
    teacher = small.teacher(images.mesh, small.linear(), SHAPE)
    session = small.session(folder, stop=stop, programs=known)
    group.train([fit], teacher, session, lambda member: states.append(member.state))
    return states[0]


@pytest.fixture(scope="module")
def cropped(root, mesh):
    return _streamed(root, mesh, augmentation="random_resized_crop", flip=True)


@pytest.fixture(scope="module")
def undisturbed(cropped, known, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, _train(folder, cropped, known)


def test_a_streamed_training_learns(undisturbed):
    lines = small.lines(undisturbed[0])
    assert [line["step"] for line in lines] == [4, 8, 10]
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.parametrize("at", [[1], [4], [6], [2, 3, 9]], ids=str)
def test_a_streamed_training_goes_on_bit_for_bit(undisturbed, cropped, known, tmp_path, at):
    for step in at:
        with pytest.raises(Stopped, match=f"at step {step} of 10$"):
            _train(tmp_path, cropped, known, stop=lambda now, step=step: now == step)
    assert small.bits(_train(tmp_path, cropped, known)) == small.bits(undisturbed[1])
    assert small.lines(tmp_path) == small.lines(undisturbed[0])


def test_an_evaluation_is_the_same_streamed_and_on_the_device(root, mesh, split):
    network = small.linear()
    predict = create_predict(network, mesh=mesh, batch_size=24)
    variables = small.teacher(mesh, network, SHAPE).variables
    found, want = (
        evaluate(predict, variables, images, num_bins=15, key=jax.random.key(2))
        for images in (_streamed(root, mesh), OnDevice.put(split, mesh))
    )
    assert found == want and sum(found.bins["count"]) == 64


def test_an_evaluation_decodes_every_image_once(root, mesh, monkeypatch):
    network, seen = small.linear(), collections.Counter()
    view = Stream.view

    def counted(stream, index):
        seen[index] += 1
        return view(stream, index)

    monkeypatch.setattr(Stream, "view", counted)
    images = _streamed(root, mesh)
    predict = create_predict(network, mesh=mesh, batch_size=24)
    variables = small.teacher(mesh, network, SHAPE).variables
    evaluate(predict, variables, images, num_bins=15, key=jax.random.key(2))
    assert seen == collections.Counter(range(len(images)))


def test_a_stream_reads_each_label_once(root, mesh, monkeypatch):
    images, read = _streamed(root, mesh), collections.Counter()
    item = ImageFiles.__getitem__

    def counted(source, index):
        read[index] += 1
        return item(source, index)

    monkeypatch.setattr(ImageFiles, "__getitem__", counted)
    want = images.labels(np.arange(10))
    np.testing.assert_array_equal(images.labels(np.arange(20))[:10], want)
    assert set(read.values()) == {1} and len(read) == 20


def test_broken_images_that_a_stream_skips_are_in_the_log(root, mesh, known, tmp_path, capfd):
    """As their mean over the steps of a line, like every metric; also after a stop within one."""
    shutil.copytree(root, tmp_path / "images")
    files = sorted((tmp_path / "images" / "train").glob("*/*.png"))[::10]
    for file in files:
        file.write_bytes(b"no image")
    images = _streamed(tmp_path / "images", mesh, broken="skip")
    with pytest.raises(Stopped):
        _train(tmp_path / "run", images, known, stop=lambda step: step == 6)
    _train(tmp_path / "run", images, known)

    key = stream(_fit(tmp_path, images).key, "order")
    seed = int(jax.random.bits(key, dtype="uint32"))
    batches = Batches(images.stream, batch_size=BATCH, seed=seed, pairs=True).start(0)
    counts = [len(batch.skipped) for batch, _ in zip(batches, range(10), strict=False)]
    assert sum(counts[:4]) == 7  # an epoch meets every broken image
    want = [np.mean(counts[:4]), np.mean(counts[4:8]), np.mean(counts[8:])]
    found = [line["skipped"] for line in small.lines(tmp_path / "run")]
    assert found == pytest.approx(want)
    assert "skipped: " in capfd.readouterr().err
    assert json.loads((tmp_path / "run" / "skipped.json").read_text()) == list(map(str, files))


def test_what_was_skipped_before_a_stop_is_not_forgotten(root, mesh, known, tmp_path):
    shutil.copytree(root, tmp_path / "images")
    broken, whole = sorted((tmp_path / "images" / "train").glob("*/*.png"))[:2]
    broken.write_bytes(b"no image")
    told = tmp_path / "run" / "skipped.json"

    def session(stop):
        images = _streamed(tmp_path / "images", mesh, broken="skip")
        _train(tmp_path / "run", images, known, stop)
        return images.skipped

    with pytest.raises(Stopped):
        session(lambda step: step == 4)
    assert json.loads(told.read_text()) == [str(broken)]
    broken.write_bytes(whole.read_bytes())
    assert session(lambda step: False) == set()
    assert json.loads(told.read_text()) == [str(broken)]


def test_a_broken_image_stops_a_training_by_default(root, mesh, tmp_path):
    shutil.copytree(root, tmp_path / "images")
    file = next((tmp_path / "images" / "train").glob("*/*.png"))
    file.write_bytes(b"no image")
    feed = _streamed(tmp_path / "images", mesh).feeds(_key(mesh), BATCH, pairs=False)
    with pytest.raises(data.BrokenImageError, match=str(file)):
        for step in range(4):
            feed(step)
