"""What a checkpoint costs, and what of it the fingerprints of its arrays do.

    python benchmarks/checkpoint.py
    python benchmarks/checkpoint.py --out=docs/results/checkpoint.json

Training waits while fingerprints are computed and arrays are copied to the host; they are written
beside it. The state is that of SGD with momentum: each parameter twice.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import optax
import record
import tabulate
from flax import serialization

from mixkd_jax import cpu
from mixkd_jax.models import create_model
from mixkd_jax.models.network import Network
from mixkd_jax.training.checkpoint import Checkpoints, fingerprints
from mixkd_jax.training.state import TrainState, create_state


def main() -> None:
    """Prints and, with --out, writes the seconds of each part."""
    options = _options()
    cpu.tune()
    rows = []
    for name in options.models:
        rows.append({"": name, **_measure(_state(name), options.repeats)})
        print(f"{name}: {rows[-1]}", flush=True)
    print(tabulate.tabulate(rows, headers="keys", floatfmt=".3g"))
    if options.out:
        record.write(options.out, {"repeats": options.repeats, "rows": rows})


def _state(name: str) -> TrainState:
    network = Network(create_model(name, num_classes=1000), (0.0,) * 3, (1.0,) * 3)
    optimizer = optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def create(key: jax.Array) -> TrainState:
        return create_state(network.init(key, (32, 32, 3)), optimizer, ("loss",))

    return jax.block_until_ready(create(jax.random.key(0)))


def _measure(state: TrainState, repeats: int) -> dict[str, Any]:
    """Returns medians, in seconds."""
    tree = serialization.to_state_dict(state)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    parts = []
    for repeat in range(repeats + 1):  # the first one compiles
        with tempfile.TemporaryDirectory() as folder:
            with Checkpoints(folder, keep=1, config={}) as checkpoints:
                part = {"fingerprints": _seconds(lambda: fingerprints(tree))}
                began = time.perf_counter()
                part["training waits"] = _seconds(lambda: checkpoints.save(state))  # noqa: B023
            part["saved after"] = time.perf_counter() - began
            with Checkpoints(folder, keep=1, config={}) as checkpoints:
                part["restored after"] = _seconds(lambda: checkpoints.restore(abstract))  # noqa: B023
        if repeat:
            parts.append(part)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    medians = {name: statistics.median(part[name] for part in parts) for name in parts[0]}
    return {"MB": round(size, 1), **{name: round(x, 4) for name, x in medians.items()}}


def _seconds(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - began


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["resnet8", "resnet50", "convnext_large"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default="", help="file of JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
