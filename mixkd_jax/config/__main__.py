"""Prints docs/config.md."""

from mixkd_jax import config

if __name__ == "__main__":
    print(config.markdown(), end="")
