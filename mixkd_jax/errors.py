"""The error for what a user can mend, which all of the package may raise."""

from __future__ import annotations


class ConfigError(ValueError):
    """A mistake in a config; the message names the field, what was expected and what came."""
