"""The experiment configs: a checkout has them in its folder `configs/`, a wheel has them here."""

import pathlib

_CHECKOUT = pathlib.Path(__file__).parents[2]
if (_CHECKOUT / "run.py").is_file():
    __path__.append(str(_CHECKOUT / "configs"))
