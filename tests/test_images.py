import io
import math

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from mixkd_jax.data import BrokenImageError, DataError, Item, images


def _pixels(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(256, size=(height, width, channels), dtype=np.uint8)


def _encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


class _List:
    """A source of the items it is given."""

    class_names = ("a", "b")

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if isinstance(self.items[index], OSError):
            raise self.items[index]
        return self.items[index]

    def item_name(self, index):
        return f"item {index}"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_of_every_mode_is_what_pillow_makes_of_it(mode):
    image = Image.fromarray(_pixels(7, 5, 4)).convert(mode)
    got = images.decode(_encoded(image))
    assert got.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(got), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_of_every_mode_is_what_pillow_makes_of_it(mode):
    smooth = Image.fromarray(_pixels(2, 2)).resize((24, 16), Image.Resampling.BICUBIC)
    encoded = _encoded(smooth.convert(mode), "JPEG", quality=95)
    got = images.decode(encoded)
    with Image.open(io.BytesIO(encoded)) as reference:
        assert reference.mode == mode
        np.testing.assert_array_equal(np.asarray(got), np.asarray(reference.convert("RGB")))
    error = np.abs(np.asarray(got).astype(int) - np.asarray(smooth.convert(mode).convert("RGB")))
    assert error.mean() < 12


def test_a_palette_with_transparency_keeps_its_colours():
    colours = _pixels(1, 4)
    image = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8))
    image = image.convert("P")
    image.putpalette(colours.ravel().tolist() + [0] * (768 - 12))
    got = images.decode(_encoded(image, transparency=bytes([0, 255, 128, 7])))
    np.testing.assert_array_equal(np.asarray(got).reshape(4, 3), colours[0])


def test_of_sixteen_bits_the_upper_eight_are_kept():
    values = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    got = np.asarray(images.decode(_encoded(Image.fromarray(values))))
    for channel in range(3):
        np.testing.assert_array_equal(got[..., channel], [[0, 0, 1], [128, 254, 255]])


def test_orientation_in_text_of_imagemagick_and_in_xmp():
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    text = PngImagePlugin.PngInfo()
    body = f"\nexif\n{len(profile):8d}\n{profile.hex()}\n"
    text.add_text("Raw profile type exif", body, zip=True)
    image = Image.fromarray(_pixels(4, 6))
    png = _encoded(image, "PNG", pnginfo=text)
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    jpeg = _encoded(image, "JPEG", xmp=xmp)
    for encoded in (png, jpeg):
        assert images.read_size(_List(Item(encoded, 0)), 0) == (6, 4)
        assert images.decode(encoded).size == (4, 6)


def test_pixels_of_unknown_range_are_refused():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).random((4, 4), np.float32)).save(file, "TIFF")
    with pytest.raises(ValueError, match="its pixels are floats"):
        images.decode(file.getvalue())


def test_a_png_may_hold_two_megabytes_of_text_but_not_any_amount():
    def with_text(size):
        text = PngImagePlugin.PngInfo()
        text.add_text("comment", "x" * size, zip=True)
        return _encoded(Image.fromarray(_pixels(4, 6)), "PNG", pnginfo=text)

    assert images.decode(with_text(2 * 2**20)).size == (6, 4)
    with pytest.raises(ValueError, match="too large"):
        images.decode(with_text(17 * 2**20))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = _encoded(Image.fromarray(_pixels(4, 6)), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    np.testing.assert_array_equal(np.asarray(images.decode(encoded)), np.asarray(upright))
    size = images.read_size(_List(Item(encoded, 0)), 0)
    assert size == (upright.height, upright.width) == ((4, 6) if orientation < 5 else (6, 4))


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_arrays_are_images(shape):
    array = _pixels(4, 5, math.prod(shape[2:])).reshape(shape)
    got = np.asarray(images.decode(array))
    colours = array[..., :3] if array.ndim == 3 else array[..., None]
    np.testing.assert_array_equal(got, np.broadcast_to(colours, (4, 5, 3)))
    assert images.read_size(_List(Item(array, 0)), 0) == (4, 5)


def test_what_is_no_image_is_named():
    whole = _encoded(Image.fromarray(_pixels(32, 32)), "JPEG")
    animation = _encoded(Image.fromarray(_pixels(2, 2)), "GIF")
    broken = [b"", b"hello", whole[: len(whole) // 2], animation, np.zeros((2, 2), np.float32)]
    for item in broken:
        source = _List(Item(whole, 0), Item(item, 1))
        with pytest.raises(
            BrokenImageError,
            match=r"^item 1: cannot decode .*broken='skip' \(config.data.broken\)$",
        ):
            images.read(source, 1)
    source = _List(FileNotFoundError(2, "No such file"))
    for function in (images.read, images.read_size):
        with pytest.raises(BrokenImageError, match="^item 0: cannot read the file: No such file;"):
            function(source, 0)
    with pytest.raises(BrokenImageError, match="^item 0: .* image: it is none of JPEG, PNG, .*;"):
        images.read_size(_List(Item(b"hello", 0)), 0)


@pytest.mark.parametrize("label", [-1, 2])
def test_an_example_without_a_class_is_refused(label):
    with pytest.raises(DataError, match=f"item 0: expected a label from 0 to 1, got {label}"):
        images.read(_List(Item(_encoded(Image.fromarray(_pixels(2, 2))), label)), 0)


def _resized_then_cropped(image, resized, corner, size):
    """Reference: resizes the whole image (height, width), then crops."""
    whole = np.asarray(image.resize(resized[::-1], Image.Resampling.BILINEAR))
    return whole[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]].astype(int)


def test_center_crop_is_the_middle_of_the_resized_image():
    image = Image.fromarray(_pixels(50, 90))
    got = images.center_crop(image, (20, 20), (24, 24))
    assert got.shape == (20, 20, 3) and got.dtype == np.uint8
    expected = _resized_then_cropped(image, (24, 43), (2, 11), (20, 20))
    assert np.abs(got - expected).max() <= 1  # Pillow rounds weights of a part on their own
    np.testing.assert_array_equal(
        images.center_crop(image, (50, 90), (50, 90)), np.asarray(image), err_msg="same size"
    )
    np.testing.assert_array_equal(
        images.center_crop(image, (10, 20), (50, 90)), np.asarray(image)[20:30, 35:55]
    )
    tiny = Image.fromarray(_pixels(1, 3))
    assert images.center_crop(tiny, (8, 8), (9, 9)).shape == (8, 8, 3)


def test_random_crop_shows_every_place_of_the_resized_image():
    image, rng = Image.fromarray(_pixels(24, 30)), np.random.default_rng(0)
    whole = np.asarray(image)
    places = {
        whole[top : top + 22, left : left + 22].tobytes(): (top, left)
        for top in range(3)
        for left in range(9)
    }
    seen = [
        places[images.random_crop(image, (22, 22), (24, 24), rng).tobytes()] for _ in range(400)
    ]
    assert set(seen) == set(places.values())


def test_random_resized_crop_has_the_areas_and_ratios_it_says(monkeypatch):
    boxes = []
    resized = images._resized
    monkeypatch.setattr(
        images, "_resized", lambda image, size, box: boxes.append(box) or resized(image, size, box)
    )
    image, rng = Image.fromarray(_pixels(120, 120)), np.random.default_rng(0)
    for _ in range(2000):
        assert images.random_resized_crop(image, (8, 8), rng).shape == (8, 8, 3)
    left, top, right, bottom = np.array(boxes).T
    assert min(left.min(), top.min()) == 0 and max(right.max(), bottom.max()) == 120
    area, ratio = (right - left) * (bottom - top) / 120**2, (right - left) / (bottom - top)
    # Rounding to pixels of parts of 34 pixels a side moves both by at most 3 %.
    assert 0.07 < area.min() < 0.1 and area.max() > 0.95
    assert 0.72 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.38
    # Large parts that are not square don't fit and are drawn again: the mean of those that fit.
    assert abs(np.log(ratio).mean()) < 0.02
    wide = Image.fromarray(_pixels(4, 400))
    boxes.clear()
    images.random_resized_crop(wide, (8, 8), rng)
    assert boxes == [(198.0, 0.0, 202.0, 4.0)]  # nothing fits: the middle
