"""The one error of this package."""


class WeightsError(ValueError):
    """A weights file that can't be fetched, is unsafe or damaged, or doesn't fit the model.

    The message names the file and, where the model doesn't fit, each weight.
    """
