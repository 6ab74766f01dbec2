import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from mixkd_jax import mixup
from mixkd_jax.data import device
from mixkd_jax.data.device import Augmentation, Batching, Shuffled

SHAPE = (9, 7, 3)
SPLIT = small.dataset(train=50, shape=SHAPE).train
EXAMPLES = device.Examples(jnp.asarray(SPLIT.images), jnp.asarray(SPLIT.labels))
ORDER = device.epoch_order(jax.random.key(6), 0, 50)


def _augmented(images, views, augmentation):
    """Pad, crop and mirror, one image after the other."""
    pad = augmentation.crop_padding
    out = np.zeros_like(images)
    for k, image in enumerate(images):
        height, width, _ = image.shape
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        top, left = views.corner[k]
        view = padded[top : top + height, left : left + width]
        out[k] = view[:, ::-1] if views.mirrored[k] else view
    return out


@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(), Augmentation(2), Augmentation(0, True), Augmentation(4, True)],
    ids=str,
)
@pytest.mark.parametrize("jitted", [False, True])
def test_augment_is_pad_crop_and_mirror(augmentation, jitted):
    views = device.sample_views(jax.random.key(0), 50, augmentation)
    augment = jax.jit(device.augment, static_argnums=2) if jitted else device.augment
    got = augment(EXAMPLES.images, views, augmentation)
    want = _augmented(SPLIT.images, jax.tree.map(np.asarray, views), augmentation)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, want)


def test_views_cover_every_corner_and_both_sides_evenly():
    views = device.sample_views(jax.random.key(1), 20_000, Augmentation(1, True))
    corner = np.asarray(views.corner)
    counts = np.histogram2d(*corner.T, bins=[range(4), range(4)])[0]
    assert corner.min() == 0 and corner.max() == 2 and views.corner.dtype == jnp.int32
    # 5 standard deviations of a count that is binomial with p = 1/9.
    assert np.abs(counts - 20_000 / 9).max() < 5 * np.sqrt(20_000 / 9 * 8 / 9)
    assert abs(np.mean(views.mirrored) - 0.5) < 5 * 0.5 / np.sqrt(20_000)
    sides = corner[np.asarray(views.mirrored)].mean(0), corner[~np.asarray(views.mirrored)].mean(0)
    np.testing.assert_allclose(*sides, atol=0.06)  # drawn independently


def test_nothing_is_augmented_unless_asked_for():
    views = device.sample_views(jax.random.key(1), 100, Augmentation())
    assert not np.any(views.corner) and not np.any(views.mirrored)


def test_an_epoch_visits_every_example_once_in_its_own_order():
    orders = [np.asarray(device.epoch_order(jax.random.key(2), e, 50)) for e in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert not np.array_equal(orders[0], orders[1]) and not np.array_equal(orders[1], orders[2])
    np.testing.assert_array_equal(orders[1], device.epoch_order(jax.random.key(2), 1, 50))
    other = np.asarray(device.epoch_order(jax.random.key(3), 1, 50))
    assert not np.array_equal(orders[1], other)


def test_the_batches_of_an_epoch_follow_its_order_and_leave_out_the_rest():
    order = device.epoch_order(jax.random.key(2), 0, 50)
    batches = jax.jit(device.batch_indices, static_argnums=2)
    for epoch in range(2):
        seen = [np.asarray(batches(order, 3 * epoch + step, 16)) for step in range(3)]
        np.testing.assert_array_equal(np.concatenate(seen), order[:48])


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(2, True)], ids=str)
@pytest.mark.parametrize("jitted", [False, True])
def test_a_mixed_batch_is_mixup_of_the_augmented_images_and_the_labels(augmentation, jitted):
    how = Batching(20, 4, augmentation)
    key, plan_key = jax.random.split(jax.random.key(5))
    plan = mixup.sample_mixup(plan_key, 20)
    views = device.sample_views(key, 20, augmentation)
    step, indices = 1, np.asarray(ORDER[20:40])

    def ours(feed, plan):
        return feed.batch(how, key, step, plan)

    def plain(feed, plan):
        images = device.augment(feed.examples.images[indices], views, augmentation)
        labels = jax.nn.one_hot(feed.examples.labels[indices], 4)
        return device.Batch(mixup.apply_mixup(plan, images), mixup.apply_mixup(plan, labels), {})

    feed = Shuffled(EXAMPLES, ORDER)
    got, want = ((jax.jit(f) if jitted else f)(feed, plan) for f in (ours, plain))
    assert got.images.dtype == got.labels.dtype == jnp.float32
    jax.tree.map(np.testing.assert_array_equal, got, want)
    # And both are what NumPy makes of it, to float32 rounding.
    images = _augmented(SPLIT.images[indices], jax.tree.map(np.asarray, views), augmentation)
    lam = np.asarray(plan.lam, np.float64)[:, None, None, None]
    mixed = lam * images + (1 - lam) * images[np.asarray(plan.partner)]
    np.testing.assert_allclose(got.images, mixed, atol=5e-5)
    assert not np.allclose(got.images, images)


def test_without_a_plan_a_batch_is_pixels_and_one_hot_labels():
    how = Batching(3, 3, Augmentation())
    order = jnp.array([9, 9, 9, 4, 0, 4], jnp.int32)
    batch = Shuffled(EXAMPLES, order).batch(how, jax.random.key(0), jnp.int32(1), None)
    indices = np.array([4, 0, 4])
    np.testing.assert_array_equal(batch.images, SPLIT.images[indices].astype(np.float32))
    np.testing.assert_array_equal(batch.labels, np.eye(3)[SPLIT.labels[indices]])
    assert batch.counts == {}
