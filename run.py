"""Trains a teacher, distils students from it on mixed inputs, evaluates and reports.

    python run.py --config=configs/digits.py
    python run.py --help

Where the package is installed, `mixkd` is the same command.
"""

from mixkd_jax.cli import main

if __name__ == "__main__":
    main()
