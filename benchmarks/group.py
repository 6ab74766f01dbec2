r"""Time of a step of K students that share their batch and their teacher's logits.

    python benchmarks/group.py --out=group.json

A is a step of a group of K arms that differ in their temperature, as a run takes it. Beside it,
measured in turn in the same process: t, the teacher's logits; s, one student's update; and B, a
step of a group of one, of which K separate runs take K. What sharing can save at best is the ratio
(t + K s) / (K (t + s)); what it saves is A / (K B). The last column, A / (t + K s), says how far
from the best a group is: drawing the batch, and what the programs cost between them.

The paper's setting, on a GPU:

    python benchmarks/group.py --teacher=convnext_large --student=resnet50 --image-size=224 \
        --batch-size=200 --num-examples=2000 --dtype=bfloat16
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import step as benchmark
import tabulate
from etils import epath

from mixkd_jax import cpu
from mixkd_jax.folder import Folder
from mixkd_jax.models.network import Teacher
from mixkd_jax.training import group, member
from mixkd_jax.training.group import Session
from mixkd_jax.training.member import Member
from mixkd_jax.training.metrics import MetricsLog
from mixkd_jax.training.programs import Programs
from mixkd_jax.training.progress import Progress

COUNTS = (1, 2, 4, 8)


def main() -> None:
    """Times all group sizes in turn, prints the table, and writes JSON if asked to."""
    cpu.tune()
    options = parse()
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory())
        texts = [f"mixkd:temperature={1 + k}" for k in range(max(COUNTS))]
        teacher, fits = benchmark.setting(options, texts, Folder(epath.Path(root)))
        session = Session(
            Programs(),
            MetricsLog(Folder(epath.Path(root)), enabled=False),
            Progress(every=1e9, enabled=False),
            lambda step: False,
        )
        members = [stack.enter_context(member.opened(fit, session)) for fit in fits]
        parts = {
            "t": query(teacher, members[0], session),
            "s": update(teacher, members[0], session),
        }
        for count in COUNTS:
            parts[f"A{count}"] = step(members[:count], teacher, session)
        seconds = alternate(parts, options.repeats)
    found = summary(seconds, options)
    print(tabulate.tabulate(found["rows"], headers="keys", floatfmt=".3f"))
    if options.out:
        with open(options.out, "w") as file:
            json.dump(found, file, indent=2)
            file.write("\n")


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = benchmark.pair_parser(__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-examples", type=int, default=5_000, help="on the device")
    parser.add_argument("--repeats", type=int, default=9, help="rounds that are timed")
    return parser.parse_args()


def batch_of(one: Member, session: Session) -> tuple[Any, Any]:
    """Returns the feed of the first step and the batch that is drawn from it."""
    fit = one.fit
    feed = fit.images.feeds(fit.key, fit.batching.batch_size, pairs=True)(0)
    draw = session.programs.draw(fit)
    return feed, draw(feed, fit.key, np.int32(0), fit.mixing)


def query(teacher: Teacher, one: Member, session: Session) -> Callable[[], Any]:
    """Returns what computes the teacher's logits on a batch that is ready."""
    _, batch = batch_of(one, session)
    program = session.programs.query(teacher.network, one.fit)
    return lambda: program(teacher.variables, batch.images)


def update(teacher: Teacher, one: Member, session: Session) -> Callable[[], Any]:
    """Returns what updates a student on a batch and logits that are ready."""
    _, batch = batch_of(one, session)
    logits = session.programs.query(teacher.network, one.fit)(teacher.variables, batch.images)
    program = session.programs.update(one.fit)
    state = jax.tree.map(lambda leaf: leaf.copy(), one.state)  # the program may take its memory

    def run() -> Any:
        nonlocal state
        state = program(state, batch, logits, one.fit.key, one.numbers)
        return state

    return run


def step(members: Sequence[Member], teacher: Teacher, session: Session) -> Callable[[], Any]:
    """Returns what takes a step of a group, as `group.train` does."""
    feed, _ = batch_of(members[0], session)

    def run() -> Any:
        now = members[0].step
        for one in members:
            one.step = now
        group.take_step(now, members, feed, teacher, session.programs)
        return [one.state for one in members]

    return run


def alternate(parts: dict[str, Callable[[], Any]], repeats: int) -> dict[str, np.ndarray]:
    """Returns seconds [repeats] of each part, timed in turn after a round to warm up."""
    rows = []
    for _ in range(repeats + 1):
        row = []
        for run in parts.values():
            start = time.perf_counter()
            jax.block_until_ready(run())
            row.append(time.perf_counter() - start)
        rows.append(row)
    return dict(zip(parts, np.array(rows[1:]).T, strict=True))


def summary(seconds: dict[str, np.ndarray], options: argparse.Namespace) -> dict[str, Any]:
    """Returns a row for each size of a group, from medians, and what they were measured on."""
    t, s = (float(np.median(seconds[part])) for part in ("t", "s"))
    rows = []
    for count in COUNTS:
        best = t + count * s
        ratio = np.median(seconds[f"A{count}"] / (seconds["t"] + count * seconds["s"]))
        rows.append(
            {
                "K": count,
                "A ms": 1e3 * float(np.median(seconds[f"A{count}"])),
                "t + K s ms": 1e3 * best,
                "A / (K B)": float(np.median(seconds[f"A{count}"] / (count * seconds["A1"]))),
                "at best": best / (count * (t + s)),
                "A / (t + K s)": float(ratio),
            }
        )
    return {
        "rows": rows,
        "t_ms": 1e3 * t,
        "s_ms": 1e3 * s,
        "options": {name: value for name, value in vars(options).items() if name != "out"},
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
    }


if __name__ == "__main__":
    main()
