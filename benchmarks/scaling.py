r"""What devices tell each other in a step, read off the compiled program, and what it costs them.

    python benchmarks/scaling.py --out=scaling.json
    python benchmarks/scaling.py --teacher=convnext_large --student=resnet50 --image-size=224 \
        --per-device=25 --dtype=bfloat16

The student's update and the teacher's query are compiled ahead of time for 8, 64 and 256 devices,
of which a CPU has as many as are asked for; nothing is run. All collectives are listed with their
bytes. The predicted efficiency is compute / (compute + communication), as if nothing overlapped:
compute at 45 % of the peak, an all-reduce of n bytes over N devices as 2 n (N - 1) / N bytes over
the slowest link, one way. Latency, which grows with N, and the input are left out.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import json
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import step as benchmark
import tabulate

from mixkd_jax.data.device import Batch
from mixkd_jax.training import sharding
from mixkd_jax.training.fit import Fit
from mixkd_jax.training.programs import Programs

COUNTS = (8, 64, 256)
SHARE_OF_PEAK = 0.45
# Peak of bfloat16 in TFLOP/s, and what one device sends in GB/s, one way: half of what the makers
# tell for both ways (cloud.google.com/tpu/docs/v5e and v5p; NVIDIA's H100 datasheet: NVLink 900
# GB/s within a host of 8; between hosts InfiniBand NDR, 400 Gbit/s for each GPU).
HARDWARE = {
    "TPU v5e": {8: (197, 200), 64: (197, 200), 256: (197, 200)},
    "TPU v5p": {8: (459, 600), 64: (459, 600), 256: (459, 600)},
    "H100, 8 a host": {8: (989, 450), 64: (989, 50), 256: (989, 50)},
}
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"= (.+?) ({_KINDS})(?:-start)?\(")
_SHAPE = re.compile(r"([a-z]+)(\d+)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Images of which only the shape is known."""

    number: int
    image_shape: tuple[int, int, int]
    metrics: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Returns how many there are."""
        return self.number


def main() -> None:
    """Compiles for all numbers of devices, prints the tables, and writes JSON if asked to."""
    options = parse()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(COUNTS))
    found = [measure(options, count) for count in COUNTS]
    print(tabulate.tabulate(found, headers="keys", floatfmt=".4g"))
    if options.out:
        content = {
            "rows": found,
            "options": {name: value for name, value in vars(options).items() if name != "out"},
            "jax": jax.__version__,
            "date": datetime.date.today().isoformat(),
        }
        with open(options.out, "w") as file:
            json.dump(content, file, indent=2)
            file.write("\n")


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = benchmark.pair_parser(__doc__)
    parser.add_argument("--per-device", type=int, default=64, help="images a step")
    return parser.parse_args()


def measure(options: argparse.Namespace, count: int) -> dict[str, Any]:
    """Returns a row of the table for a number of devices."""
    mesh = sharding.data_mesh(jax.devices()[:count])
    batch_size = options.per_device * count
    shape = (options.image_size, options.image_size, 3)
    options = argparse.Namespace(**{**vars(options), "batch_size": batch_size})
    network, (fit,) = benchmark.planned(options, Shapes(batch_size, shape), mesh)
    query, update = programs(network, fit, options)
    asked, updated = collectives(query), collectives(update)
    student: Any = fit.recipe.network
    work = benchmark.multiply_adds(network, shape) + 3 * benchmark.multiply_adds(student, shape)
    number = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(fit.abstract_state.params))
    sent = sum(size for _, size in updated)
    row: dict[str, Any] = {
        "devices": count,
        "batch": batch_size,
        "query's": len(asked),
        "update's": ", ".join(f"{n} {kind}" for kind, n in counted(updated).items()),
        "MB": 1e-6 * sent,
        "parameters MB": 4e-6 * number,
    }
    for name, known in HARDWARE.items():
        peak, link = known[count]
        compute = 2 * work * options.per_device / (SHARE_OF_PEAK * 1e12 * peak)
        talk = 2 * sent * (count - 1) / count / (1e9 * link)
        row[f"{name} %"] = 100 * compute / (compute + talk)
    return row


def programs(network: Any, fit: Fit, options: argparse.Namespace) -> tuple[str, str]:
    """Returns the compiled query and update as XLA's text."""
    mesh, size = fit.recipe.mesh, options.image_size
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = sharding.replicated(mesh)

    def array(*shape: int, place: Any = split) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)

    labels = array(options.batch_size, options.num_classes)
    batch = Batch(array(options.batch_size, size, size, 3), labels, {})
    key = jax.eval_shape(jax.random.key, 0)
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole)
    variables = jax.eval_shape(lambda key: network.init(key, fit.images.image_shape), key)
    variables = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), variables
    )
    numbers = {name: array(place=whole) for name in fit.numbers}
    known = Programs()
    query = known.query(network, fit).lower(variables, batch.images).compile()
    update = known.update(fit).lower(fit.abstract_state, batch, labels, key, numbers).compile()
    return query.as_text(), update.as_text()


def collectives(text: str) -> list[tuple[str, int]]:
    """Returns the kind and the bytes of each collective in a compiled program's text."""
    return [(found[2], _bytes(found[1])) for found in _COLLECTIVE.finditer(text)]


def counted(found: list[tuple[str, int]]) -> dict[str, int]:
    """Returns how many there are of each kind."""
    return dict(collections.Counter(kind for kind, _ in found))


def _bytes(shapes: str) -> int:
    total = 0
    for _, bits, sizes in _SHAPE.findall(shapes):
        total += int(bits) // 8 * int(np.prod([int(n) for n in sizes.split(",") if n]))
    return total


if __name__ == "__main__":
    main()
