"""Datasets as uint8 images and integer labels in host memory; see `load`.

Importing this package loads NumPy only; a source imports its library when it is used.
"""

from mixkd_jax.data.sources import load
from mixkd_jax.data.types import DataError, Dataset, Split

__all__ = ["DataError", "Dataset", "Split", "load"]
