"""A run's folder: where every file of a run lies, under one name each."""

from __future__ import annotations

import dataclasses
import os
import re

from etils import epath

TEACHER = "teacher"
BEST = "best"
BASES = ("ce", "mixup", "kd", "mixkd")  # what an arm's name begins with
TIMES = ("compile", "train", "evaluate", "checkpoint", "analyse")  # what a model's time is spent on
_COLON = "~"  # what an arm's colons become in a path: some file systems take none


def student_name(arm: str, seed: int) -> str:
    """Returns the name of a student, which is also the path of its folder.

    Args:
      arm: as the config writes it, such as "mixkd:temperature=4".
      seed: of the student.
    """
    return f"arms/{arm.replace(':', _COLON)}/{seed}"


def split_name(name: str) -> tuple[str, int] | None:
    """Returns the arm and the seed of a student's name, and None for any other text.

    It is the inverse of `student_name`: a name that this doesn't make, such as "arms/ce/00", is
    no student's, so that no two names are those of one student.
    """
    parts = name.split("/")
    if len(parts) != 3 or not re.fullmatch("[0-9]{1,18}", parts[2]):
        return None
    arm, seed = parts[1].replace(_COLON, ":"), int(parts[2])
    return (arm, seed) if arm and student_name(arm, seed) == name else None


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """Where the files of one model lie; its checkpoints are folders beside them.

    Attributes:
      path: of the folder.
    """

    path: epath.Path

    @property
    def best(self) -> ModelFolder:
        """The model as it was where it did best on the validation images, if that is kept."""
        return ModelFolder(self.path / BEST)

    @property
    def validation(self) -> epath.Path:
        """Of a best model: the measures of the validation images that it was chosen by."""
        return self.path / "validation.json"

    @property
    def evaluation(self) -> epath.Path:
        """The metrics on the test images, and the step that they are of."""
        return self.path / "evaluation.json"

    @property
    def analysis(self) -> epath.Path:
        """The vicinal analysis, and the step that it is of."""
        return self.path / "analysis.json"

    @property
    def time(self) -> epath.Path:
        """The seconds that the model took, by what they were spent on."""
        return self.path / "time.json"


@dataclasses.dataclass(frozen=True)
class Folder:
    """Where the files of a run lie.

    Attributes:
      root: of the folder; local, or in a bucket.
    """

    root: epath.Path

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Folder:
        """Returns the folder at a path."""
        return cls(epath.Path(path))

    def model(self, name: str) -> ModelFolder:
        """Returns the folder of the model with a name such as "teacher" or "arms/ce/0"."""
        return ModelFolder(self.root / name)

    def model_names(self) -> list[str]:
        """Returns the names of the teacher and of all students whose folders are there."""
        found = [TEACHER] if (self.root / TEACHER).is_dir() else []
        arms = self.root / "arms"
        for arm in sorted(arms.iterdir()) if arms.is_dir() else []:
            seeds = [seed.name for seed in arm.iterdir()] if arm.is_dir() else []
            names = (f"arms/{arm.name}/{seed}" for seed in seeds)
            found += sorted((name for name in names if split_name(name)), key=_by_seed)
        return found

    @property
    def config(self) -> epath.Path:
        """The config, the data, versions, devices, the commit and the command."""
        return self.root / "config.json"

    @property
    def lock(self) -> epath.Path:
        """Whose run it is; there only while one goes on."""
        return self.root / "lock"

    @property
    def time(self) -> epath.Path:
        """The wall and CPU seconds of the run's sessions, and their number."""
        return self.root / "time.json"

    @property
    def metrics(self) -> epath.Path:
        """What was logged while training, a JSON object a line."""
        return self.root / "metrics.jsonl"

    @property
    def tensorboard(self) -> epath.Path:
        """TensorBoard's events, in a folder for each model."""
        return self.root / "tensorboard"

    @property
    def skipped(self) -> epath.Path:
        """The names of broken images that were left out of a stream."""
        return self.root / "skipped.json"

    @property
    def results(self) -> epath.Path:
        """The numbers of all models together."""
        return self.root / "results.json"

    @property
    def report(self) -> epath.Path:
        """The page about the run."""
        return self.root / "report.html"

    @property
    def figures(self) -> epath.Path:
        """The figures of the page."""
        return self.root / "figures"

    @property
    def tables(self) -> epath.Path:
        """The tables of the page."""
        return self.root / "tables"


def _by_seed(name: str) -> int:
    split = split_name(name)
    return split[1] if split else 0
