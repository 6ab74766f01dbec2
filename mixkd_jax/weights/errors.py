"""The one error of this package."""


class WeightsError(ValueError):
    """A weights file that can't be fetched, is unsafe or damaged, or doesn't fit the model.

    The message names the file and, where the model doesn't fit, each weight.
    """


def unreadable(error: Exception) -> str:
    """Returns why a file can't be read: what the system says, or that its content is damaged."""
    if isinstance(error, OSError) and error.strerror:
        return f"can't be read: {error.strerror}"
    return f"can't be read, it seems to be damaged: {error}"
