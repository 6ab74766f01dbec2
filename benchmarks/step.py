r"""Time of the whole distillation step against its networks' own compute.

    python benchmarks/step.py --out=step.json

A is the step that training runs, in its three programs: gather, crop, flip and mix a batch; query
the teacher; the loss, the student's gradient, the optimizer and the metrics. B is the teacher's
forward pass and the student's forward and backward pass on a batch that is ready, in one program.
All are compiled, and timed in turn in one process; the ratio is the median of A over B, pair by
pair. The paper's setting, on a GPU (with --peak-tflops of its kind, the share of that peak is told
too):

    python benchmarks/step.py --teacher=convnext_large --student=resnet50 --image-size=224 \
        --batch-size=200 --num-examples=2000 --dtype=bfloat16 --peak-tflops=989

Work is counted by hand, as two operations for each multiplication and addition of the matrix
products and convolutions, once for the teacher and three times for the student; and by XLA, of B.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mixkd_jax import config, cpu, losses, models
from mixkd_jax.config import arms
from mixkd_jax.data import Split
from mixkd_jax.folder import Folder
from mixkd_jax.models.network import Network, Teacher
from mixkd_jax.run.images import RunImages
from mixkd_jax.run.plan import Plan
from mixkd_jax.training import sharding
from mixkd_jax.training.feeds import OnDevice
from mixkd_jax.training.fit import Fit
from mixkd_jax.training.programs import Programs
from mixkd_jax.training.randomness import stream


def main() -> None:
    """Times both, prints the table, and writes JSON if asked to."""
    cpu.tune()
    options = parse()
    teacher, (fit,) = setting(options)
    step = whole(teacher, fit)
    bare, xla_flops = networks(teacher, fit)
    student, shape = fit.recipe.network, fit.images.image_shape
    network: Any = teacher.network
    flops = 2 * (multiply_adds(network, shape) + 3 * multiply_adds(student, shape))
    rows = alternate(step, bare, options.repeats)
    found = summary(rows, flops, xla_flops / options.batch_size, options)
    print(
        f"whole step        {found['step_ms']:9.1f} ms  "
        f"{found['images_per_second']:9.0f} images/s\n"
        f"networks alone    {found['networks_ms']:9.1f} ms\n"
        f"ratio             {found['ratio']:9.3f}     (quartiles {found['ratio_quartiles'][0]:.3f}"
        f" to {found['ratio_quartiles'][1]:.3f}, {options.repeats} pairs)\n"
        f"work              {found['gflop_per_image']:9.2f} GFLOP an image by hand, "
        f"{found['xla_gflop_per_image']:.2f} by XLA\n"
        f"                  {found['tflops']:9.2f} TFLOP/s"
        + (f", {found['share_of_peak']:.1%} of the peak" if options.peak_tflops else "")
    )
    if options.out:
        with open(options.out, "w") as file:
            json.dump(found, file, indent=2)
            file.write("\n")


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = pair_parser(__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-examples", type=int, default=50_000, help="on the device")
    parser.add_argument("--peak-tflops", type=float, help="of the device, for --dtype")
    parser.add_argument("--repeats", type=int, default=25, help="pairs that are timed")
    return parser.parse_args()


def pair_parser(about: str | None) -> argparse.ArgumentParser:
    """Returns a parser of what all benchmarks of a teacher and a student take."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("--teacher", default="wrn-40-2", choices=models.model_names())
    parser.add_argument("--student", default="wrn-16-2", choices=models.model_names())
    parser.add_argument("--image-size", type=int, default=32, help="pixels")
    parser.add_argument("--num-classes", type=int, default=100)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--out", help="JSON file to write")
    return parser


def setting(
    options: argparse.Namespace,
    texts: Sequence[str] = ("mixkd",),
    folder: Folder | None = None,
) -> tuple[Teacher, list[Fit]]:
    """Returns a teacher at random and the fits of arms, trained as configs/cifar.py has it."""
    mesh = sharding.data_mesh(jax.devices()[:1])
    rng = np.random.default_rng(0)
    shape = (options.num_examples, options.image_size, options.image_size, 3)
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    labels = rng.integers(0, options.num_classes, options.num_examples, dtype=np.int32)
    images = OnDevice.put(Split(pixels, labels), mesh)
    network, fits = planned(options, images, mesh, texts, folder)
    variables = jax.jit(functools.partial(network.init, image_shape=images.image_shape))
    return Teacher(network, variables(jax.random.key(0))), fits


def planned(
    options: argparse.Namespace,
    images: Any,
    mesh: Mesh,
    texts: Sequence[str] = ("mixkd",),
    folder: Folder | None = None,
) -> tuple[Network, list[Fit]]:
    """Returns the teacher's network and the fits of arms, for these images and devices."""
    values: Any = config.get_defaults()
    values.arms = tuple(texts)
    values.data.mean, values.data.std = (0.5,), (0.25,)
    values.data.crop_padding, values.data.flip = 4, True
    for training, model in ((values.teacher, options.teacher), (values.student, options.student)):
        training.model, training.dtype = model, options.dtype
        training.head = "imagenet" if model.endswith("_torch") else ""
        training.batch_size = options.batch_size
    settings = config.parse(values)
    names = tuple(map(str, range(options.num_classes)))
    of_run = RunImages("random", names, images, images, None, images, images.image_shape[:2])
    plan = Plan(settings, {}, folder or Folder.at("unused"), of_run, mesh)
    fits = [plan.of_arm(plan.student(), arm, 0, 1.0) for arm in arms.resolve(settings)]
    return plan.teacher().recipe.network, fits


def whole(teacher: Teacher, fit: Fit) -> Callable[[], None]:
    """Returns a function that takes one training step and waits for it."""
    programs = Programs()
    draw, query = programs.draw(fit), programs.query(teacher.network, fit)
    update, state = programs.update(fit), programs.init(fit)(fit.key)
    feed = fit.images.feeds(stream(fit.key, "order"), fit.batching.batch_size, pairs=True)(0)
    numbers = {name: jnp.float32(value) for name, value in fit.numbers.items()}

    def step() -> None:
        nonlocal state
        batch = draw(feed, fit.key, np.int32(0), fit.mixing)
        logits = query(teacher.variables, batch.images)
        state = jax.block_until_ready(update(state, batch, logits, fit.key, numbers))

    return step


def networks(teacher: Teacher, fit: Fit) -> tuple[Callable[[], Any], float]:
    """Returns a function that runs the two networks on a ready batch, and XLA's count of FLOPs."""
    student, shape = fit.recipe.network, fit.images.image_shape
    variables = jax.jit(functools.partial(student.init, image_shape=shape))(fit.key)
    images = jax.random.uniform(fit.key, (fit.batching.batch_size, *shape), maxval=255.0)

    @jax.jit
    def compute(variables, teacher_variables, images):
        teacher_logits = teacher.network.logits(teacher_variables, images)

        def loss(params):
            own = {**variables, "params": params}
            logits, stats = student.train_logits(own, images, fit.key)
            return jnp.mean(losses.distillation_kl(logits, teacher_logits)), stats

        return jax.grad(loss, has_aux=True)(variables["params"])

    compiled = compute.lower(variables, teacher.variables, images).compile()
    costs: Any = compiled.cost_analysis()
    call = functools.partial(compiled, variables, teacher.variables, images)
    return lambda: jax.block_until_ready(call()), costs["flops"]


def multiply_adds(network: Network, image_shape: tuple[int, int, int]) -> int:
    """Counts those of a forward pass on one image, in matrix products and convolutions alone."""
    key = jax.eval_shape(jax.random.key, 0)
    variables = jax.eval_shape(functools.partial(network.init, image_shape=image_shape), key)
    image = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    return _multiply_adds(jax.make_jaxpr(network.logits)(variables, image).jaxpr)


def _multiply_adds(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        out, parameters = equation.outvars[0].aval.shape, equation.params
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += math.prod(out) * math.prod(left[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            channels = kernel[parameters["dimension_numbers"].rhs_spec[0]]
            total += math.prod(out) * math.prod(kernel) // channels
        for inner in jax.tree.leaves(list(parameters.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                total += _multiply_adds(getattr(inner, "jaxpr", inner))
    return total


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")


def alternate(step, bare, repeats: int) -> np.ndarray:
    """Returns seconds [repeats, 2] of both, timed in turn after two rounds to warm up."""

    def seconds(function) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    rows = [(seconds(step), seconds(bare)) for _ in range(repeats + 2)]
    return np.array(rows[2:])


def summary(rows: np.ndarray, flops: float, xla_flops: float, options: argparse.Namespace) -> dict:
    """Returns medians, the work on an image, and what they were measured on."""
    step, bare = np.median(rows, axis=0)
    tflops = 1e-12 * flops * options.batch_size / step
    ratio = rows[:, 0] / rows[:, 1]
    return {
        "step_ms": 1e3 * step,
        "networks_ms": 1e3 * bare,
        "ratio": float(np.median(ratio)),
        "ratio_quartiles": np.quantile(ratio, [0.25, 0.75]).tolist(),
        "images_per_second": options.batch_size / step,
        "gflop_per_image": 1e-9 * flops,
        "xla_gflop_per_image": 1e-9 * xla_flops,
        "tflops": tflops,
        "share_of_peak": tflops / options.peak_tflops if options.peak_tflops else None,
        "options": {name: value for name, value in vars(options).items() if name != "out"},
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
    }


if __name__ == "__main__":
    main()
