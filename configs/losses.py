"""Losses by name, with the weights of their papers; a config's argument `loss=` chooses one.

The term that each name stands for, and its reference, is in mixkd_jax/training/objectives.py.
"""

from ml_collections import ConfigDict

LOSSES = {
    # arXiv:2606.12171, its default and the script that its authors released later.
    "kl": {"name": "kl", "temperature": "2", "kd_weight": 1.0, "ce_weight": 0.0},
    "kl-ce": {"name": "kl", "temperature": "2", "kd_weight": 0.8, "ce_weight": 0.2},
    # Choi et al. 2023: each row divided by its own deviation.
    "std": {"name": "kl", "temperature": "std", "kd_weight": 1.0, "ce_weight": 0.0},
    # Sun et al. 2024, CIFAR-100: base temperature 2, deviation of a sample.
    "lskd": {"name": "lskd", "temperature": "2", "kd_weight": 9.0, "ce_weight": 0.1, "ddof": 1},
    # The same as the authors of arXiv:2606.12171 compare with: deviation of a population.
    "lskd-mixkd": {"name": "lskd", "temperature": "2", "kd_weight": 9.0, "ce_weight": 0.1},
    # Zhao et al. 2022, CIFAR-100; without their 20 epochs of warm-up of the term.
    "dkd": {"name": "dkd", "temperature": "4", "kd_weight": 1.0, "ce_weight": 1.0},
    # Sun et al. 2025.
    "rld": {"name": "rld", "temperature": "4", "kd_weight": 8.0, "ce_weight": 1.0},
    # As the authors of arXiv:2606.12171 compare with: one temperature for both parts.
    "rld-mixkd": {
        "name": "rld",
        "temperature": "2",
        "kd_weight": 4.0,
        "ce_weight": 1.0,
        "confidence_temperature": 2.0,
    },
    # Huang et al. 2022, CIFAR-100.
    "dist": {"name": "dist", "temperature": "4", "kd_weight": 2.0, "ce_weight": 1.0},
}


def apply(config: ConfigDict, name: str) -> None:
    """Sets `config.loss` to the loss called `name`."""
    config.loss.update(LOSSES[name])
