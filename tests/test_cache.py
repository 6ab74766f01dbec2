"""Compiled programs that the command keeps."""

import os

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from mixkd_jax.cli import cache

NAMES = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture(autouse=True)
def _unset():
    """No cache before, and none after."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def _compile(number):
    """Compiles a program that is new in every process, of some work; returns what it gives."""

    def work(x):
        for k in range(40):
            x = jnp.sort(jnp.sin(x * k + number))
        return x

    return jax.jit(work)(jnp.arange(100.0))


def test_a_program_is_kept_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    told = cache.keep("auto")
    assert told == f"compiled programs are kept in {tmp_path}/mixkd_jax (config.compilation_cache)"
    assert (tmp_path / "mixkd_jax").stat().st_mode & 0o077 == 0
    first = _compile(1)
    (kept,) = (tmp_path / "mixkd_jax").glob("jit_work-*-cache")
    hits = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
    jax.clear_caches()
    assert (_compile(1) == first).all()
    assert "/jax/compilation_cache/cache_hits" in hits
    kept.write_bytes(kept.read_bytes()[:100])  # as a crash may leave it
    jax.clear_caches()
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache entry"):
        assert (_compile(1) == first).all()


def test_what_is_oldest_goes_when_there_is_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MAX_BYTES", 250)
    for age, name in enumerate(("new", "old", "older")):
        file = tmp_path / f"jit_{name}-cache"
        file.write_bytes(bytes(100))
        os.utime(file, (1e9 - age, 1e9 - age))
    other = tmp_path / "mine.txt"
    other.write_bytes(bytes(1000))
    assert cache.keep(str(tmp_path)).startswith("compiled programs are kept")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "jit_new-cache",
        "jit_old-cache",
        "mine.txt",
    ]


def test_nothing_is_kept_where_it_can_not_be(tmp_path):
    (tmp_path / "file").write_text("")
    told = cache.keep(str(tmp_path / "file" / "cache"))
    assert told == f"compiled programs are not kept in {tmp_path}/file/cache: Not a directory"
    for strange in ("a\0b", "~nobody-of-this-name/x"):
        assert cache.keep(strange).startswith("compiled programs are not kept")
    assert cache.keep("") == ""
    assert jax.config.jax_compilation_cache_dir is None


def test_the_programs_of_another_user_are_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert cache.keep(str(tmp_path)).endswith(": it is another user's")
    assert jax.config.jax_compilation_cache_dir is None


def test_what_jax_was_told_stays(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    assert cache.keep(str(tmp_path / "ours")) == ""
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    assert not (tmp_path / "ours").exists()
