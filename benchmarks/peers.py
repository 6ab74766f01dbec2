r"""The distillation step against an ordinary PyTorch loop with the same models, data and loss.

    python benchmarks/peers.py --out=peers.json
    python benchmarks/peers.py --teacher=resnet20 --student=resnet8

On a GPU, at the size of the paper:

    python benchmarks/peers.py --teacher=convnext_large_torch --student=resnet50_torch \
        --image-size=224 --batch-size=128 --num-examples=512 --dtype=bfloat16

Both sides have the same weights, keep the same images on the device, crop, flip and mix them there,
query the teacher in evaluation mode, and train the student by the KL divergence at temperature 2
with SGD. The losses of the first steps, on batches that are mixed beforehand, are compared: if they
differ, it ends there. Then both take steps in turn in one process. PyTorch runs as it is (eager),
with channels last, compiled, and in bfloat16 (channels last, autocast; so do all modes with
--dtype=bfloat16). Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

# PyTorch has the same GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
import tabulate

try:
    import safetensors.torch
    import torch
    import torch.nn.functional as F
except ImportError as error:
    sys.exit(f'error: {error}; pip install -e ".[bench]"')
import step as benchmark
import torch_models

from mixkd_jax import cpu, weights
from mixkd_jax.data.device import Batch
from mixkd_jax.models.network import Teacher
from mixkd_jax.training.fit import Fit
from mixkd_jax.training.programs import Programs
from mixkd_jax.training.randomness import stream

MODES = ("eager", "channels_last", "compile", "bfloat16")
PADDING, TEMPERATURE, MEAN, STD = 4, 2.0, 0.5, 0.25
TOLERANCE = {"float32": 0.02, "bfloat16": 0.08}  # of losses; GPUs round float32 to TF32
Steps = Callable[[int], None]  # takes so many steps and waits for the last


def main() -> None:
    """Compares losses, times all in turn, prints the table, and writes JSON if asked to."""
    cpu.tune()
    options = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as XLA does
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    twins = [_twin(name, options) for name in _names(options)]
    teacher, (fit,) = benchmark.setting(options)
    teacher, start = _as_twins(twins, teacher, fit)
    losses = compare(teacher, fit, start, twins, device, options)
    print(_told(losses), flush=True)
    sides: dict[str, Steps] = {"mixkd_jax": ours(teacher, fit, start)}
    for mode in options.modes or (MODES[:3] if device.type == "cuda" else MODES[:2]):
        sides[f"PyTorch, {mode}"] = theirs(twins, device, mode, options)
    rows, steps = alternate(sides, options.repeats, device)
    found = summary(rows, steps, losses, options, device)
    print(tabulate.tabulate(found["rows"], headers="keys", floatfmt=".4g"))
    if options.out:
        with open(options.out, "w") as file:
            json.dump(found, file, indent=2)
            file.write("\n")


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = benchmark.pair_parser(__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-examples", type=int, default=5_000, help="on the device")
    parser.add_argument("--repeats", type=int, default=7, help="rounds that are timed")
    parser.add_argument("--compare-steps", type=int, default=5, help="whose losses are compared")
    parser.add_argument(
        "--modes", type=lambda text: text.split(","), help=f"of PyTorch: {','.join(MODES)}"
    )
    options = parser.parse_args()
    if unknown := set(options.modes or ()) - set(MODES):
        parser.error(f"--modes: expected some of {', '.join(MODES)}, got {', '.join(unknown)}")
    for name in _names(options):
        try:
            with torch.device("meta"):
                _twin(name, options)
        except (ValueError, ImportError) as problem:
            parser.error(str(problem))
    return options


def _names(options: argparse.Namespace) -> tuple[str, str]:
    return options.teacher, options.student


def _twin(name: str, options: argparse.Namespace) -> torch.nn.Module:
    return torch_models.create(name, options.num_classes, options.image_size)


def _as_twins(
    twins: list[torch.nn.Module], teacher: Teacher, fit: Fit
) -> tuple[Teacher, dict[str, Any]]:
    """Returns the teacher and the student's variables with the twins' weights.

    They come by way of files, as those of users do, but for `cnn`.
    """
    found = []
    networks: list[Any] = [teacher.network, fit.recipe.network]
    with tempfile.TemporaryDirectory() as folder:
        for twin, network in zip(twins, networks, strict=True):
            if isinstance(twin, torch_models.CNN):
                found.append(jax.tree.map(jnp.array, twin.variables()))
                continue
            path = f"{folder}/twin.safetensors"
            safetensors.torch.save_file(twin.state_dict(), path)
            loaded = weights.load_weights(path, network.module, fit.images.image_shape)
            found.append(jax.block_until_ready(loaded))
    return Teacher(teacher.network, found[0]), found[1]


def _first_state(fit: Fit, start: dict[str, Any], programs: Programs) -> Any:
    state = programs.init(fit)(fit.key)
    copied = jax.tree.map(jnp.copy, start)  # a GPU's update takes the memory of its state
    statistics = copied.get("batch_stats", state.batch_stats)
    return dataclasses.replace(state, params=copied["params"], batch_stats=statistics)


def ours(teacher: Teacher, fit: Fit, start: dict[str, Any]) -> Steps:
    """Returns this package's steps, as a run takes them."""
    programs = Programs()
    draw, query = programs.draw(fit), programs.query(teacher.network, fit)
    update, state = programs.update(fit), _first_state(fit, start, programs)
    feed = fit.images.feeds(stream(fit.key, "order"), fit.batching.batch_size, pairs=True)
    numbers = {name: jnp.float32(value) for name, value in fit.numbers.items()}
    now = 0

    def steps(count: int) -> None:
        nonlocal state, now
        for _ in range(count):
            batch = draw(feed(now), fit.key, np.int32(now), fit.mixing)
            logits = query(teacher.variables, batch.images)
            state = update(state, batch, logits, fit.key, numbers)
            now += 1
        jax.block_until_ready(state)

    return steps


class Loop:
    """The same training in PyTorch."""

    def __init__(
        self,
        twins: list[torch.nn.Module],
        device: torch.device,
        mode: str,
        options: argparse.Namespace,
    ):
        """Takes copies of the models."""
        layout = torch.contiguous_format if mode == "eager" else torch.channels_last
        teacher, student = (
            copy.deepcopy(twin).to(device).to(memory_format=layout) for twin in twins
        )
        # Kernels, as here: not biases, and not the scales of a ConvNeXt, whose shape is [C, 1, 1].
        decayed = [p for p in student.parameters() if p.ndim in (2, 4)]
        others = [p for p in student.parameters() if p.ndim not in (2, 4)]
        self.optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}],
            lr=0.05,
            momentum=0.9,
            nesterov=True,
        )
        self.layout, self.device = layout, device
        self.autocast = "bfloat16" in (options.dtype, mode)
        self.teacher, self.student = teacher.eval(), student.train()
        if mode == "compile":
            self.teacher, self.student = torch.compile(teacher), torch.compile(student)

    def step(self, images: torch.Tensor) -> torch.Tensor:
        """Takes a step on mixed images f32[B, 3, H, W] in [0, 255]; returns the loss."""
        x = ((images / 255 - MEAN) / STD).contiguous(memory_format=self.layout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            with torch.no_grad():
                t = self.teacher(x)
            s = self.student(x)
        s, t = s.float() / TEMPERATURE, t.float() / TEMPERATURE
        target = F.log_softmax(t, -1)
        loss = F.kl_div(F.log_softmax(s, -1), target, reduction="batchmean", log_target=True)
        loss = TEMPERATURE**2 * loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def theirs(
    twins: list[torch.nn.Module], device: torch.device, mode: str, options: argparse.Namespace
) -> Steps:
    """Returns PyTorch's steps: images and mixing on the device too."""
    loop, size = Loop(twins, device, mode, options), options.image_size
    shape = (options.num_examples, size, size, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    padded = F.pad(pixels, (0, 0, PADDING, PADDING, PADDING, PADDING))
    batches = _epochs(options.num_examples, options.batch_size, device)
    one = torch.ones((), device=device)
    beta = torch.distributions.Beta(one, one)

    def steps(count: int) -> None:
        for _ in range(count):
            images = _views(padded, next(batches), size)
            lam = beta.sample((len(images), 1, 1, 1))  # pyright: ignore[reportArgumentType]
            partner = torch.randperm(len(images), device=device)
            loop.step(lam * images + (1 - lam) * images[partner])
        if device.type == "cuda":
            torch.cuda.synchronize()

    return steps


def _epochs(number: int, batch_size: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Yields indices of batches, every epoch in another order."""
    while True:
        order = torch.randperm(number, device=device)
        for batch in range(number // batch_size):
            yield order[batch * batch_size : (batch + 1) * batch_size]


def _views(padded: torch.Tensor, chosen: torch.Tensor, size: int) -> torch.Tensor:
    """Returns images at random crops, half of them mirrored: f32[B, 3, size, size]."""
    number, device = len(chosen), padded.device
    along = torch.arange(size, device=device)
    top, left = torch.randint(0, 2 * PADDING + 1, (2, number, 1), device=device)
    rows, columns = top + along, left + along
    mirrored = torch.rand(number, 1, device=device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    found = padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
    return found.permute(0, 3, 1, 2).float()


def compare(
    teacher: Teacher,
    fit: Fit,
    start: dict[str, Any],
    twins: list[torch.nn.Module],
    device: torch.device,
    options: argparse.Namespace,
) -> dict[str, list[float]]:
    """Returns the losses of the first steps of both sides, on the same mixed images.

    Ends the process if they differ.
    """
    rng = np.random.default_rng(0)
    shape = (options.batch_size, options.image_size, options.image_size, 3)
    loop, programs = Loop(twins, device, "eager", options), Programs()
    query, update = programs.query(teacher.network, fit), programs.update(fit)
    state = _first_state(fit, start, programs)
    numbers = {name: jnp.float32(value) for name, value in fit.numbers.items()}
    labels = jnp.full((options.batch_size, options.num_classes), 1 / options.num_classes)
    losses: dict[str, list[float]] = {"mixkd_jax": [], "PyTorch": []}
    total = 0.0
    for _ in range(options.compare_steps):
        lam = rng.uniform(size=(options.batch_size, 1, 1, 1)).astype(np.float32)
        pixels = rng.integers(0, 256, shape).astype(np.float32)
        mixed = lam * pixels + (1 - lam) * pixels[rng.permutation(len(pixels))]
        batch = Batch(jnp.asarray(mixed), labels, {})
        state = update(state, batch, query(teacher.variables, batch.images), fit.key, numbers)
        losses["mixkd_jax"].append(float(state.totals["loss"]) - total)
        total = float(state.totals["loss"])
        image = torch.from_numpy(mixed).permute(0, 3, 1, 2).to(device)
        losses["PyTorch"].append(float(loop.step(image)))
    # Of the first two, which show forward and backward pass and update; chance grows from there.
    worst = _difference({name: side[:2] for name, side in losses.items()})
    if worst > TOLERANCE[options.dtype]:
        sys.exit(f"error: the losses of the two sides differ by {worst:.1%}: {losses}")
    return losses


def _difference(losses: dict[str, list[float]]) -> float:
    a, b = (np.array(side) for side in losses.values())
    return float(np.max(np.abs(a - b) / np.maximum(np.abs(a), 1e-6), initial=0))


def _told(losses: dict[str, list[float]]) -> str:
    sides = [f"{name} {', '.join(f'{x:.5g}' for x in side)}" for name, side in losses.items()]
    return f"losses: {'; '.join(sides)} (at most {_difference(losses):.2%} apart)"


def alternate(
    sides: dict[str, Steps], repeats: int, device: torch.device
) -> tuple[dict[str, np.ndarray], int]:
    """Returns seconds a step [repeats] of each side, timed in turn, and the steps of a turn."""

    def seconds(side: Steps, count: int) -> float:
        begin = time.perf_counter()
        side(count)
        return (time.perf_counter() - begin) / count

    first = {name: seconds(side, 2) * 2 for name, side in sides.items()}
    slowest = max(seconds(side, 1) for side in sides.values())
    count = 1 if device.type == "cpu" else int(np.clip(0.3 / slowest, 1, 50))
    for side in sides.values():
        side(count)
    print("warm:", ", ".join(f"{name} {s:.0f} s" for name, s in first.items()), flush=True)
    rows = [[seconds(side, count) for side in sides.values()] for _ in range(repeats)]
    return dict(zip(sides, np.array(rows).T, strict=True)), count


def summary(
    seconds: dict[str, np.ndarray],
    steps: int,
    losses: dict[str, list[float]],
    options: argparse.Namespace,
    device: torch.device,
) -> dict[str, Any]:
    """Returns a row for each side, from medians, and what they were measured on."""
    rows, own = [], seconds["mixkd_jax"]
    for name, side in seconds.items():
        low, middle, high = np.quantile(side / own, [0.25, 0.5, 0.75])
        rows.append(
            {
                "": name,
                "ms a step": 1e3 * float(np.median(side)),
                "images/s": options.batch_size / float(np.median(side)),
                "time / ours": float(middle),
                "quartiles": f"{low:.3f} to {high:.3f}",
            }
        )
    threads = torch.get_num_threads() if device.type == "cpu" else None
    return {
        "rows": rows,
        "steps_of_a_turn": steps,
        "losses": losses,
        "options": {name: value for name, value in vars(options).items() if name != "out"},
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
        "jax": jax.__version__,
        "torch": torch.__version__,
        "torch_threads": threads,
        "date": datetime.date.today().isoformat(),
    }


if __name__ == "__main__":
    main()
