"""Datasets as uint8 images and integer labels: in host memory, `load`, or streamed, `open_sources`.

Importing this package loads NumPy only; a source imports its library when it is used.
"""

from mixkd_jax.data.sources import load, open_sources
from mixkd_jax.data.types import (
    BrokenImageError,
    DataError,
    Dataset,
    Item,
    Source,
    Sources,
    Split,
    Subset,
)

__all__ = [
    "BrokenImageError",
    "DataError",
    "Dataset",
    "Item",
    "Source",
    "Sources",
    "Split",
    "Subset",
    "load",
    "open_sources",
]
