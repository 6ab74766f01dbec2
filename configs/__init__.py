"""Experiment configs, for `python run.py --config=configs/<name>.py`."""
