"""Paths on the Hugging Face Hub."""

import re
from pathlib import Path

from mixkd_jax.weights.errors import WeightsError

_FORM = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^/@]+))?/(?P<file>[^@]+)")


def local_path(path: str | Path) -> Path:
    """Returns where a file lies on this machine, fetching it from the Hub where it must.

    Args:
        path: A local path, or ``hf://owner/repository/file``; ``repository@revision`` pins a
            branch, tag or commit. A fetched file stays in huggingface_hub's cache, so the next
            call needs no network.

    Raises:
        WeightsError: If the form is wrong, huggingface_hub isn't installed, or the file is neither
            in the cache nor to be had.
    """
    if not str(path).startswith("hf:"):
        return Path(path).expanduser()
    match = _FORM.fullmatch(str(path))
    if not match or ".." in match["file"].split("/"):
        raise WeightsError(f"{path}: expected hf://owner/repository/file")
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsError(
            f"{path}: needs huggingface_hub: pip install 'mixkd-jax[weights]'"
        ) from error
    try:
        return Path(
            huggingface_hub.hf_hub_download(
                match["repo"], match["file"], revision=match["revision"]
            )
        )
    # Its own errors, requests' and httpx' have no base in common but these two.
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: can't be fetched and isn't in the cache ({type(error).__name__}: {error}); "
            f"check the name, or with a network fetch it once: "
            f"hf download {match['repo']} {match['file']}"
        ) from error
