"""The command: `python run.py` in a checkout, `mixkd` where the package is installed."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixkd_jax import cpu
from mixkd_jax.cli import flags, messages, signals, start

if TYPE_CHECKING:
    from mixkd_jax.training.progress import Progress

# What takes long to import is imported where it is used: --help doesn't wait for it, and while the
# rest does, something is shown.


def main() -> None:
    """Runs what the flags say; the results' table alone goes to standard output."""
    options, overrides = flags.parse(sys.argv[1:])
    if options.help:
        print(flags.help_text(options.help))
        return
    cpu.tune()
    # Orbax's threads write tracebacks of errors there, which it raises too, where they are told.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    with messages.told(options, overrides):
        first = True
        signals.listen(alone=not options.distributed)
        if options.distributed:
            from mixkd_jax.cli import processes

            first = processes.join(options)
        from mixkd_jax.training.progress import Progress

        if options.mode in ("predict", "export"):
            with (
                Progress(enabled=first) as progress,
                progress.during(f"{options.mode}ing {options.model}"),
            ):
                from mixkd_jax.cli import use

                told = getattr(use, options.mode)(options)
            print(told, flush=True)
            return
        with Progress(enabled=first) as progress:
            table, page = _run(options, overrides, progress)
        if first:
            print(f"\n{table}\n" if table else "", end="", flush=True)
            left = messages.left(options, overrides) if table else ""
            print(f"\nreport: {page}{left}", file=sys.stderr)


def _run(
    options: argparse.Namespace, overrides: Sequence[str], progress: Progress
) -> tuple[str, str]:
    """Returns the table of the results and the path of the report."""
    with progress.during("starting"):
        from mixkd_jax.run import workdir
    if options.mode == "compare":
        with workdir.made(options.workdir) as folder, progress.during("comparing"):
            from mixkd_jax.report import compare

            return "", str(compare.write(options.runs, folder))
    if options.mode == "report":
        from mixkd_jax.folder import Folder
        from mixkd_jax.report import report, results
        from mixkd_jax.run import lock

        with lock.held(Folder.at(options.workdir)), progress.during("writing the report"):
            found, written = report.again(options.workdir)
        return results.table(found), str(written)
    with progress.during("starting"):
        from mixkd_jax.cli import load

        values, notes = load.config(options.config, options.workdir, overrides)
        from mixkd_jax import experiment
        from mixkd_jax.cli import cache
        from mixkd_jax.report import results
        from mixkd_jax.training.preemption import Stopped, StopRequest
    kept = cache.keep(str(values.compilation_cache))
    for note in filter(None, [*notes, kept]):
        progress.say(note)
    with workdir.made(options.workdir) as folder:
        options.workdir = folder  # so that messages can name it
        stop = StopRequest(last_words=lambda: messages.next_command(options, overrides))
        try:
            found = experiment.run(
                values.to_dict(),
                folder,
                mode=options.mode,
                stop=stop,
                progress=progress,
                command=start.command(sys.argv[1:]),
            )
        except Stopped as error:
            if stop.interrupted:
                raise KeyboardInterrupt(f"and saved: {error}") from None
            raise
    return results.table(found), f"{folder}/report.html"
