"""scikit-learn's digits: no download, a minute on a CPU.

    python run.py --config=configs/digits.py
    python run.py --config=configs/digits.py:claims

The argument `claims` trains the arms that decide all of the paper's claims; `loss=` chooses another
loss (mixkd_jax/objectives.py).

What is to be seen here: the students must work on noisy images and have 200 of them to learn
from; the teacher learned from 1,000 clean ones. A student alone becomes too sure of too little.
Being short of data and certainty is where a teacher's answers are worth most, and inputs between
the given ones give it more to answer. All models are measured on the same 497 noisy images,
which nothing was chosen by.
"""

from ml_collections import ConfigDict

from mixkd_jax import objectives
from mixkd_jax.config import arguments, get_defaults

CHOICES = {**arguments.ARMS, "loss": objectives.preset_names()}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the config for an argument such as "claims" or "loss=dkd"."""
    given = arguments.parse(argument, CHOICES)
    config = get_defaults()
    arguments.apply(config, given)
    if given.get("arms") == "claims":
        config.seeds = (0, 1, 2)  # 20 arms in a few minutes on two cores
    config.data.name = "digits"
    config.data.teacher_examples = 1000
    config.data.student_examples = 200
    config.data.validation_examples = 300  # the rest; a temperature is fitted on them
    config.data.noise = 0.3
    config.data.mean = (0.3,)
    config.data.std = (0.38,)
    for training, batch_size, duration in (
        (config.teacher, 50, "40 epochs"),
        (config.student, 50, "200 epochs"),
    ):
        training.model = "cnn"
        training.batch_size = batch_size
        training.duration = duration
        training.optimizer.name = "adamw"
        training.optimizer.weight_decay = 1e-4
        training.schedule.name = "cosine"
        training.schedule.learning_rate = 3e-3
        training.schedule.warmup = "50 steps"
    config.log.every = "100 steps"
    config.checkpoint.every = "400 steps"
    return config
