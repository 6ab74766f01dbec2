"""The command's flags and its help."""

from __future__ import annotations

import argparse
import ast
import difflib
import pathlib
from collections.abc import Sequence

from mixkd_jax import configs
from mixkd_jax.cli import start
from mixkd_jax.cli.messages import fail

MODES = {
    "train": "trains what is left of a run, measures and reports it; the default",
    "evaluate": "measures a run's newest checkpoints, finished or not",
    "analyze": "analyses how these behave between images",
    "report": "writes the report of --workdir again, from its files alone",
    "compare": "sets the runs of --runs side by side in --workdir",
    "predict": "predicts the images of --images with the trained model --model",
    "export": "writes the trained model --model to --out, for use elsewhere",
}
# Flags that a mode can't do without; all others need a config.
NEEDED = {
    "report": ("workdir",),
    "compare": (),
    "predict": ("model", "images"),
    "export": ("model", "out"),
}

HELP = """\
Trains a teacher, distils students from it on mixed inputs, and measures all.

  {program} --config={digits}
  {program} --config={cifar}:cifar10,teacher=resnet56
  {program} --workdir=runs/NAME     goes on with a run, or reports it again
  {program} --workdir=runs/NAME --config.seeds="5 seeds"

flags:
  --config=CONFIG       a config below, such a file, or a run's config.json;
                        CONFIG:ARGUMENTS has those that its first lines tell
  --config.FIELD=VALUE  sets a field; --help=config lists them all
  --workdir=RUN         the run's folder, by default a new one in runs/; one
                        that holds a run needs no --config
  --mode=MODE           see below; --runs=RUN,RUN belongs to compare
  --model=MODEL         of predict and export: the folder of a run's model, as
                        runs/a/arms/mixkd/0, an exported one, hf://OWNER/NAME
  --images=FOLDER       of predict: a folder of images, or files: a.jpg,b.jpg
  --calibrated          of predict: divides logits by the fitted temperature
  --out=PATH            of export: a new folder, or hf://OWNER/NAME; of
                        predict: the name of its .csv and .json
  --distributed         one process of many: a TPU slice, Slurm, Open MPI and
                        Kubernetes tell the others, or --num_processes=N
                        --process_id=I --coordinator=HOST:PORT
  --heartbeat=SECONDS   of silence, after which a process is lost (60)

configs:
{configs}

modes:
{modes}"""


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the flags, and those that set fields of the config; ends the process at a mistake."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", nargs="?", const="flags", choices=["flags", "config"])
    parser.add_argument("--config")
    parser.add_argument("--workdir")
    parser.add_argument("--mode", default="train", choices=list(MODES))
    parser.add_argument("--runs", default=[], type=lambda text: text.split(","))
    parser.add_argument("--model")
    parser.add_argument("--images")
    parser.add_argument("--calibrated", action="store_true")
    parser.add_argument("--out")
    parser.add_argument("--distributed", action="store_true")
    parser.add_argument("--coordinator")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    parser.add_argument("--heartbeat", type=int)
    options, rest = parser.parse_known_args(_joined(arguments))
    for name in NEEDED.get(options.mode, ()):
        if not (options.help or getattr(options, name)):
            fail(f"--{name}: expected a value with --mode={options.mode}, got none")
    if not (options.help or options.config or options.workdir or options.mode in NEEDED):
        fail(f"--config: expected a config, got none; try --config={_called('digits')}, or --help")
    if options.heartbeat is not None and options.heartbeat < 5:
        fail(f"--heartbeat: expected at least 5 seconds, got {options.heartbeat}")
    for argument in rest:
        if not argument.startswith(("--config.", "--noconfig.")):
            fail(_unknown(argument, parser))
    return options, rest


class _Parser(argparse.ArgumentParser):
    """One whose mistakes are told as all others are."""

    def error(self, message: str):
        """Ends the process."""
        fail(message.removeprefix("argument ").replace("-h/", ""))


def _unknown(argument: str, parser: argparse.ArgumentParser) -> str:
    """Returns what to say of an argument that is none of the flags."""
    name = argument.partition("=")[0]
    if not name.startswith("-"):
        return f"expected flags alone, got {argument!r}; a config goes behind --config="
    known = [flag for action in parser._actions for flag in action.option_strings]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "--help tells which there are"
    return f"{name}: there is no such flag; {hint}"


def _joined(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with `--config.a.b value` as one, `--config.a.b=value`."""
    joined: list[str] = []
    for argument in arguments:
        before = joined[-1] if joined else ""
        if before.startswith("--config.") and "=" not in before and not argument.startswith("--"):
            joined[-1] = f"{before}={argument}"
        else:
            joined.append(argument)
    return joined


def _called(name: str) -> str:
    """Returns what to type behind `--config=` for one of the configs that come along."""
    return name if start.is_installed() else f"configs/{name}.py"


def config_files() -> dict[str, pathlib.Path]:
    """Returns the files of the configs that come with this package, by their names."""
    files = (file for folder in configs.__path__ for file in pathlib.Path(folder).glob("*.py"))
    return {file.stem: file for file in sorted(files) if "def get_config(" in file.read_text()}


def help_text(about: str) -> str:
    """Returns the help about the "flags", which fits a screen, or about all of a "config"."""
    if about == "config":
        return _fields()
    files = config_files()
    return HELP.format(
        program="mixkd" if start.is_installed() else "python run.py",
        digits=_called("digits"),
        cifar=_called("cifar"),
        configs=_table({_called(name): _first_line(file) for name, file in files.items()}),
        modes=_table(MODES),
    )


def _first_line(file: pathlib.Path) -> str:
    """Returns the first line of what a config says of itself."""
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return text.partition("\n")[0].rstrip(".")


def _table(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"  {name:{width}}  {meaning}" for name, meaning in rows.items())


def _fields() -> str:
    from mixkd_jax import config

    lines = ["All fields, with their defaults; set them as in --config.seeds=0,1,2", ""]
    for row in config.rows():
        lines += [f"--{row.path} = {row.default}", f"    {row.meaning}; expected {row.expected}"]
    return "\n".join(lines)
