"""Trains a teacher, distils students from it on mixed inputs, evaluates and reports.

    python run.py --config=configs/digits.py
    python run.py --mode=compare --runs=runs/a,runs/b

Every field of a config is described in docs/config.md and can be set here, as in
--config.student.batch_size=128. The same command with the --workdir of a run that was stopped
continues it; of a finished one, it writes the report again.
"""

import shlex
import sys

import jax
from absl import app, flags
from ml_collections import config_flags

from mixkd_jax import cli, experiment
from mixkd_jax.report import results
from mixkd_jax.run import workdir
from mixkd_jax.training.preemption import StopRequest

config_flags.DEFINE_config_file("config", None, "Config file, such as configs/digits.py.")
flags.DEFINE_string("workdir", None, "Folder of this run. Default: a new one under runs/.")
flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate", "analyze", "compare"],
    "evaluate, analyze: measure the newest checkpoints there are. compare: see --runs.",
)
flags.DEFINE_list("runs", [], "Finished runs' folders, to be set side by side in --workdir.")
flags.DEFINE_bool(
    "distributed", False, "One process of many, on a TPU pod slice, Slurm or Open MPI."
)


def main(_: list[str]) -> None:
    """Runs the job that the flags describe, and prints its table."""
    options = flags.FLAGS
    if options.distributed:
        cli.join_processes(options.workdir)
    folder = options.workdir or workdir.new_folder()
    if options.mode == "compare":
        from mixkd_jax.report import compare  # loads matplotlib

        print(f"comparison: {compare.write(options.runs, folder)}")
        return
    found = experiment.run(
        options.config,
        folder,
        mode=options.mode,
        stop=StopRequest(),
        command=shlex.join(["python", *sys.argv]),
    )
    if jax.process_index() == 0:
        print(f"\n{results.table(found)}\n\nreport: {folder}/report.html")


if __name__ == "__main__":
    app.run(cli.without_traceback(main), flags_parser=cli.parse_flags)
