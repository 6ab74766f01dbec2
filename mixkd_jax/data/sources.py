"""Datasets by name."""

from mixkd_jax.data.digits import load_digits
from mixkd_jax.data.types import DataError, Dataset


def load(name: str, *, data_dir: str = "", download: bool = True) -> Dataset:
    """Loads a dataset with its two splits into host memory."""
    if name == "digits":
        return load_digits()
    raise DataError(f"dataset name: expected 'digits', got {name!r}")
