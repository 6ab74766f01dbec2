"""Time to compile what a run's first steps need: one program after the other, or all at once.

    python benchmarks/compile.py --out=compile.json

The programs are those of a teacher with two students, of the losses kl and dkd: the students'
variables, the batch, the teacher's query and two updates. The two ways take turns in one process,
after a round that isn't counted, and each begins with no trace and no program.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import record
import step

from mixkd_jax import cpu
from mixkd_jax.models.network import Teacher
from mixkd_jax.training.fit import Fit
from mixkd_jax.training.programs import Programs
from mixkd_jax.training.randomness import stream

PARTS = ("variables", "batch", "query", "update, kl", "update, dkd")


def main() -> None:
    """Times both, prints the table, and writes JSON if asked to."""
    cpu.tune()
    options = parse()
    jax.config.update("jax_enable_compilation_cache", False)
    teacher, fits = step.setting(options, ("mixkd", "mixkd:loss=dkd"))
    rows = []
    for _ in range(1 + options.repeats):
        parts, apart = _timed(lowered(teacher, fits), lambda jobs: [_compile(job) for job in jobs])
        with ThreadPoolExecutor(len(PARTS)) as pool:
            at_once = _timed(lowered(teacher, fits), lambda jobs: list(pool.map(_compile, jobs)))[1]
        rows.append({"in turn": apart, "at once": at_once, **dict(zip(PARTS, parts, strict=True))})
    del rows[0]
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    ratio = statistics.median(row["at once"] / row["in turn"] for row in rows)
    for name, seconds in medians.items():
        print(f"{name:12} {seconds:6.2f} s")
    print(f"at once / in turn {ratio:.2f}")
    if options.out:
        given = {name: value for name, value in vars(options).items() if name != "out"}
        record.write(options.out, {**given, "ratio": ratio, "rows": rows})


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = step.pair_parser(__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-examples", type=int, default=512, help="on the device")
    parser.add_argument("--repeats", type=int, default=5, help="times that each way is taken")
    return parser.parse_args()


def lowered(teacher: Teacher, fits: Sequence[Fit]) -> list[Callable[[], Any]]:
    """Returns functions that trace and lower each of `PARTS`."""
    programs, others, first = Programs(), Programs(), fits[0]
    draw, query = programs.draw(first), programs.query(teacher.network, first)
    order = stream(first.key, "order")
    feed = first.images.feeds(order, first.batching.batch_size, pairs=True)(0)
    given = (feed, first.key, jax.ShapeDtypeStruct((), jnp.int32), first.mixing)
    # By other programs, since these would be traced by it.
    batch = jax.eval_shape(others.draw(first), *given)
    logits = jax.eval_shape(others.query(teacher.network, first), teacher.variables, batch.images)

    def update(fit: Fit) -> Any:
        numbers = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in fit.numbers}
        return programs.update(fit).lower(fit.abstract_state, batch, logits, fit.key, numbers)

    return [
        lambda: programs.variables(first).lower(first.key),
        lambda: draw.lower(*given),
        lambda: query.lower(teacher.variables, batch.images),
        *(functools.partial(update, fit) for fit in fits),
    ]


def _compile(job: Callable[[], Any]) -> float:
    start = time.perf_counter()
    job().compile()
    return time.perf_counter() - start


def _timed(jobs: Any, how: Callable[[Any], list[float]]) -> tuple[list[float], float]:
    jax.clear_caches()
    start = time.perf_counter()
    parts = how(jobs)
    return parts, time.perf_counter() - start


if __name__ == "__main__":
    main()
