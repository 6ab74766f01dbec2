"""Decoding, resizing and cropping on the host, with Pillow.

Every image becomes RGB, 8 bits a channel: grey is repeated, palettes and CMYK are converted, an
alpha channel is dropped, of 16 bits the upper 8 are kept. Photographs are turned upright as their
EXIF or XMP orientation says. Of Pillow's readers only those of `_FORMATS` are used, whatever a file
is called.

Resizing is bilinear with antialiasing. The part of the image that is wanted is resized at once,
which gives the same pixels as resizing all of it and then cropping.
"""

import io
import math
import sys

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from mixkd_jax.data.types import BrokenImageError, DataError, Item, Source

Size = tuple[int, int]  # height and width in pixels

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_ORIENTATION = 0x0112  # the EXIF tag; from 5 on, width and height are exchanged
# Of unpacked text in a PNG; Pillow takes 1 MB, less than some programs write, and 64 MB of all.
PngImagePlugin.MAX_TEXT_CHUNK = 16 * 2**20
_AREA = (0.08, 1.0)  # of the image, in a random resized crop
_RATIO = (3 / 4, 4 / 3)  # width to height of the same
_TRIES = 10
_SKIP_HINT = "; repair or remove it, or set broken='skip' (config.data.broken)"


def read(source: Source, index: int) -> tuple[Image.Image, int]:
    """Returns an example's image in RGB, and its label.

    Raises:
        BrokenImageError: If the image can't be read or decoded.
        DataError: If it has no label.
    """
    item = _item(source, index)
    if not 0 <= item.label < len(source.class_names):
        raise DataError(
            f"{source.item_name(index)}: expected a label from 0 to "
            f"{len(source.class_names) - 1}, got {item.label}; choose a split with labels"
        )
    try:
        return decode(item.image), item.label
    except Exception as error:  # Pillow raises many types for what it cannot decode
        raise _broken(source, index, f"cannot decode the image: {error}") from error


def read_size(source: Source, index: int) -> Size:
    """Returns an image's height and width, decoding no pixels; errors as in `read`."""
    image = _item(source, index).image
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1]
    try:
        opened = _open(image)
        width, height = opened.size
        return (width, height) if _orientation(opened) >= 5 else (height, width)
    except Exception as error:  # as in `read`
        raise _broken(source, index, f"cannot decode the image: {error}") from error


def tell_skipped(error: BrokenImageError) -> None:
    """Tells on stderr which image is skipped, and why."""
    print(f"skipped: {str(error).removesuffix(_SKIP_HINT)}", file=sys.stderr)


def decode(image: bytes | np.ndarray) -> Image.Image:
    """Returns an image in RGB from an image file, or from uint8 [H, W], [H, W, 1, 3 or 4].

    Raises:
        Exception: Of any of Pillow's types, if it is neither or damaged.
    """
    if isinstance(image, np.ndarray):
        pixels = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
        if pixels.dtype != np.uint8:
            raise ValueError(f"expected uint8 pixels, got {pixels.dtype}")
        return _rgb(Image.fromarray(pixels))
    opened = _open(image)
    opened.load()
    return _rgb(ImageOps.exif_transpose(opened) if _orientation(opened) > 1 else opened)


def center_crop(image: Image.Image, size: Size, resize: Size) -> np.ndarray:
    """Returns the middle uint8 [*size, 3] of an image resized to cover `resize`."""
    room = _room(image, size, resize)
    return _crop_resized(image, size, resize, (room[0] // 2, room[1] // 2))


def grey(pixels: np.ndarray) -> np.ndarray:
    """Returns uint8 [H, W, 1] of RGB pixels [H, W, 3]; those of a grey image stay as they are."""
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def random_crop(
    image: Image.Image, size: Size, resize: Size, rng: np.random.Generator
) -> np.ndarray:
    """Returns a random part uint8 [*size, 3] of an image resized to cover `resize`."""
    top, left = (int(rng.integers(room + 1)) for room in _room(image, size, resize))
    return _crop_resized(image, size, resize, (top, left))


def random_resized_crop(image: Image.Image, size: Size, rng: np.random.Generator) -> np.ndarray:
    """Returns a random part of an image, resized to uint8 [*size, 3].

    The part has 8 to 100 % of the area, uniformly, and a width of 3/4 to 4/3 of its height,
    uniformly in the logarithm (Szegedy et al., arXiv:1409.4842, sec. 6). If ten draws don't fit
    into the image, it is the largest part in the middle.
    """
    width, height = image.size
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*_AREA)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        part_width, part_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < part_width <= width and 0 < part_height <= height:
            left = int(rng.integers(width - part_width + 1))
            top = int(rng.integers(height - part_height + 1))
            return _resized(image, size, (left, top, left + part_width, top + part_height))
    return center_crop(image, size, size)


def _resized_size(image: Image.Image, resize: Size) -> Size:
    """Returns the smallest size of the image's own proportions that covers `resize`."""
    width, height = image.size
    scale = max(resize[0] / height, resize[1] / width)
    return max(resize[0], round(height * scale)), max(resize[1], round(width * scale))


def _room(image: Image.Image, size: Size, resize: Size) -> Size:
    height, width = _resized_size(image, resize)
    return height - size[0], width - size[1]


def _crop_resized(image: Image.Image, size: Size, resize: Size, corner: Size) -> np.ndarray:
    """Returns the part at `corner` (top, left) of the resized image."""
    height, width = _resized_size(image, resize)
    x, y = image.width / width, image.height / height
    (top, left), (rows, columns) = corner, size
    right, bottom = min((left + columns) * x, image.width), min((top + rows) * y, image.height)
    return _resized(image, size, (left * x, top * y, right, bottom))


def _resized(image: Image.Image, size: Size, box: tuple[float, float, float, float]) -> np.ndarray:
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))


def _open(image: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(image), formats=_FORMATS)
    except UnidentifiedImageError:  # its own message names only the buffer
        what = f"none of {', '.join(_FORMATS)}" if image else "empty"
        raise ValueError(f"it is {what}") from None


def _orientation(image: Image.Image) -> int:
    """Returns what EXIF says, also of a PNG's text by ImageMagick, or XMP, where EXIF is silent."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata, of many types; the pixels may well be whole
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floats, of no known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey; Pillow would clip it at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns if this step is left out
    return image if image.mode == "RGB" else image.convert("RGB")


def _item(source: Source, index: int) -> Item:
    try:
        return source[index]
    except OSError as error:
        raise _broken(source, index, f"cannot read the file: {error.strerror}") from error


def _broken(source: Source, index: int, problem: str) -> BrokenImageError:
    return BrokenImageError(f"{source.item_name(index)}: {problem}{_SKIP_HINT}")
