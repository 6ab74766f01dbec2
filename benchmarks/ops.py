"""Time and memory of each loss against the plain composition of its formula.

    PYTHONPATH=. python benchmarks/ops.py --out docs/results/ops.json --hardware "2-core x86-64 CPU"

Measures value and gradient (in the student's logits, of the mean over the batch)
under jit. "plain" is the formula written with optax and jax.nn as one would by
hand; "torch" the same in PyTorch, where that is installed (an extra of its own:
see docs/ops.md). Ours and plain take turns, so that what else the machine does hits
both alike. Then ours by itself, and PyTorch by itself: its threads go on spinning, and
would slow what comes next. Figures are medians. Memory is what the compiled program
needs beside its arguments. Needs jax, numpy and optax.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mixkd_jax import losses

SHAPES = ((1024, 1000), (64, 32000))
Loss = Callable[[Any, Any, Any], Any]


def _kl(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    log_p = jax.nn.log_softmax(student / temperature)
    return temperature**2 * optax.losses.kl_divergence(log_p, jax.nn.softmax(teacher / temperature))


def _zscore(x: jax.Array) -> jax.Array:
    return (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-7)


def _binary(p: jax.Array, labels: jax.Array) -> jax.Array:
    own = jnp.take_along_axis(p, labels[:, None], -1)
    return jnp.concatenate([own, 1 - own], -1)


def _plain_dkd(s: jax.Array, t: jax.Array, y: jax.Array) -> jax.Array:
    hot = jax.nn.one_hot(y, s.shape[-1])
    p_s, p_t = _binary(jax.nn.softmax(s / 4), y), _binary(jax.nn.softmax(t / 4), y)
    target = optax.losses.kl_divergence(jnp.log(p_s), p_t)
    log_rest = jax.nn.log_softmax(s / 4 - 1000 * hot)
    nontarget = optax.losses.kl_divergence(log_rest, jax.nn.softmax(t / 4 - 1000 * hot))
    return 16 * (target + 8 * nontarget)


def _plain_scd(s: jax.Array, t: jax.Array, y: jax.Array) -> jax.Array:
    p_t = _binary(jax.nn.softmax(t), jnp.argmax(t, -1))
    return optax.losses.kl_divergence(jnp.log(_binary(jax.nn.softmax(s), y)), p_t)


def _plain_mcd(s: jax.Array, t: jax.Array, y: jax.Array) -> jax.Array:
    out = t >= jnp.take_along_axis(t, y[:, None], -1)
    return _kl(jnp.where(out, -1e9, s), jnp.where(out, -1e9, t), 4.0)


def _plain_dist(s: jax.Array, t: jax.Array, y: jax.Array) -> jax.Array:
    del y
    p_s, p_t = jax.nn.softmax(s), jax.nn.softmax(t)

    def distance(axis: int) -> jax.Array:
        a = p_s - p_s.mean(axis, keepdims=True)
        b = p_t - p_t.mean(axis, keepdims=True)
        return jnp.mean(optax.losses.cosine_distance(a, b, epsilon=1e-8, axis=axis))

    return distance(1) + distance(0)


# name -> (ours, plain); the second argument of "soft" is the labels.
CASES: dict[str, tuple[Loss, Loss]] = {
    "distillation_kl": (
        lambda s, t, y: losses.distillation_kl(s, t, temperature=2.0),
        lambda s, t, y: _kl(s, t, 2.0),
    ),
    "distillation_kl (std)": (
        lambda s, t, y: losses.distillation_kl(s, t, temperature="std"),
        lambda s, t, y: _kl(
            s / (s.std(-1, keepdims=True) + 1e-8), t / (t.std(-1, keepdims=True) + 1e-8), 1.0
        ),
    ),
    "cross_entropy (indices)": (
        lambda s, t, y: losses.cross_entropy(s, y),
        lambda s, t, y: optax.losses.softmax_cross_entropy_with_integer_labels(s, y),
    ),
    "cross_entropy (soft)": (
        lambda s, t, y: losses.cross_entropy(s, t),
        lambda s, t, y: optax.losses.softmax_cross_entropy(s, t),
    ),
    "distillation_loss": (
        lambda s, t, y: losses.distillation_loss(
            s, t, y, temperature=2.0, kd_weight=0.8, ce_weight=0.2
        )[0],
        lambda s, t, y: (
            0.8 * _kl(s, t, 2.0)
            + 0.2 * optax.losses.softmax_cross_entropy_with_integer_labels(s, y)
        ),
    ),
    "logit_standardization_kl": (
        lambda s, t, y: losses.logit_standardization_kl(s, t),
        lambda s, t, y: _kl(_zscore(s), _zscore(t), 2.0),
    ),
    "decoupled_kl": (lambda s, t, y: losses.decoupled_kl(s, t, y), _plain_dkd),
    "sample_confidence_kl": (lambda s, t, y: losses.sample_confidence_kl(s, t, y), _plain_scd),
    "masked_correlation_kl": (lambda s, t, y: losses.masked_correlation_kl(s, t, y), _plain_mcd),
    "relational_loss": (lambda s, t, y: losses.relational_loss(s, t), _plain_dist),
}


def torch_cases() -> dict[str, Loss]:
    """Returns the same formulas in PyTorch, or nothing where it is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
        import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}

    def kl(s: Any, t: Any, temperature: float) -> Any:
        log_p, p = F.log_softmax(s / temperature, -1), F.softmax(t / temperature, -1)
        return temperature**2 * F.kl_div(log_p, p, reduction="batchmean")

    def zscore(x: Any) -> Any:
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True, unbiased=False)
        return (x - mean) / (std + 1e-7)

    def binary(p: Any, y: Any) -> Any:
        own = p.gather(1, y[:, None])
        return torch.cat([own, 1 - own], 1)

    def dkd(s: Any, t: Any, y: Any) -> Any:
        hot = F.one_hot(y, s.shape[-1])
        p_s, p_t = binary(F.softmax(s / 4, -1), y), binary(F.softmax(t / 4, -1), y)
        target = F.kl_div(p_s.log(), p_t, reduction="batchmean")
        return 16 * target + 8 * kl(s - 4000 * hot, t - 4000 * hot, 4.0)

    def scd(s: Any, t: Any, y: Any) -> Any:
        p_t = binary(F.softmax(t, -1), t.argmax(-1))
        return F.kl_div(binary(F.softmax(s, -1), y).log(), p_t, reduction="batchmean")

    def mcd(s: Any, t: Any, y: Any) -> Any:
        out = t >= t.gather(1, y[:, None])
        return kl(s.masked_fill(out, -1e9), t.masked_fill(out, -1e9), 4.0)

    def dist(s: Any, t: Any, _: Any) -> Any:
        p_s, p_t = F.softmax(s, -1), F.softmax(t, -1)

        def distance(dim: int) -> Any:
            a, b = p_s - p_s.mean(dim, keepdim=True), p_t - p_t.mean(dim, keepdim=True)
            return 1 - F.cosine_similarity(a, b, dim=dim).mean()

        return distance(1) + distance(0)

    def std(s: Any, t: Any, _: Any) -> Any:
        s = s / (s.std(-1, keepdim=True, unbiased=False) + 1e-8)
        return kl(s, t / (t.std(-1, keepdim=True, unbiased=False) + 1e-8), 1.0)

    return {
        "distillation_kl": lambda s, t, y: kl(s, t, 2.0),
        "distillation_kl (std)": std,
        "cross_entropy (indices)": lambda s, t, y: F.cross_entropy(s, y),
        "cross_entropy (soft)": lambda s, t, y: F.cross_entropy(s, t),
        "distillation_loss": lambda s, t, y: 0.8 * kl(s, t, 2.0) + 0.2 * F.cross_entropy(s, y),
        "logit_standardization_kl": lambda s, t, y: kl(zscore(s), zscore(t), 2.0),
        "decoupled_kl": dkd,
        "sample_confidence_kl": scd,
        "masked_correlation_kl": mcd,
        "relational_loss": dist,
    }


def compile_jax(loss: Loss, arguments: tuple) -> tuple[Callable[[], float], int]:
    """Returns a call that computes value and gradient once, and its memory in bytes."""
    step = jax.value_and_grad(lambda s, t, y: jnp.mean(loss(s, t, y)))
    compiled = jax.jit(step).lower(*arguments).compile()
    memory: Any = compiled.memory_analysis()
    size = memory.temp_size_in_bytes + memory.output_size_in_bytes

    def call() -> float:
        value, gradient = jax.block_until_ready(compiled(*arguments))
        del gradient
        return float(value)

    return call, size


def prepare_torch(loss: Loss, arrays: tuple[np.ndarray, ...]) -> Callable[[], float]:
    """Returns a call that computes value and gradient once in PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]

    s, t, y = (torch.from_numpy(a.copy()) for a in arrays)
    s.requires_grad_()
    y = y.long()

    def call() -> float:
        s.grad = None
        value = loss(s, t, y)
        value.backward()
        return float(value.detach())

    return call


def take_turns(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Returns the median milliseconds of each call, run in turn; all must agree."""
    values = {name: call() for name, call in calls.items()}
    np.testing.assert_allclose(
        list(values.values()), values["ours"], rtol=1e-3, err_msg=str(values)
    )
    groups = [{name: calls[name] for name in ("ours", "plain")}]
    if "torch" in calls:
        groups += [{"ours alone": calls["ours"]}, {"torch": calls["torch"]}]
    times: dict[str, list[float]] = {name: [] for group in groups for name in group}
    for group in groups:
        for _ in range(rounds):
            for name, call in group.items():
                times[name].append(_milliseconds(call))
    return {name: statistics.median(t) for name, t in times.items()}


def _milliseconds(call: Callable[[], float]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def measure(only: str, rounds: int) -> list[dict[str, Any]]:
    """Runs every case whose name contains `only`, at every shape; prints as it goes."""
    rows = []
    torch_losses = torch_cases()
    print(
        f"{'loss':26}{'shape':>14}{'ours ms':>9}{'plain':>8}{'ratio':>7}{'memory':>8}"
        f"{'torch':>9}{'ratio':>7}"
    )
    for shape in SHAPES:
        rng = np.random.default_rng(0)
        arrays = (
            rng.normal(scale=3, size=shape).astype(np.float32),
            rng.normal(scale=3, size=shape).astype(np.float32),
            rng.integers(shape[1], size=shape[0]).astype(np.int32),
        )
        soft_labels = np.asarray(jax.nn.softmax(arrays[1]))
        for name, (ours, plain) in CASES.items():
            if only not in name:
                continue
            given = (arrays[0], soft_labels, arrays[2]) if "soft" in name else arrays
            arguments = tuple(jax.device_put(a) for a in given)
            calls, sizes = {}, {}
            for side, loss in (("ours", ours), ("plain", plain)):
                calls[side], sizes[side] = compile_jax(loss, arguments)
            if name in torch_losses:
                calls["torch"] = prepare_torch(torch_losses[name], given)
            ms = take_turns(calls, rounds)
            against_torch = ms.get("ours alone", math.nan) / ms.get("torch", math.nan)
            rows.append(
                {
                    "loss": name,
                    "shape": list(shape),
                    "ms": {k: round(v, 3) for k, v in ms.items()},
                    "time_ratio": round(ms["ours"] / ms["plain"], 3),
                    "torch_ratio": round(against_torch, 3) if torch_losses else None,
                    "bytes": sizes,
                    "memory_ratio": round(sizes["ours"] / sizes["plain"], 3),
                }
            )
            print(
                f"{name:26}{str(shape):>14}{ms['ours']:9.2f}{ms['plain']:8.2f}"
                f"{ms['ours'] / ms['plain']:7.2f}{rows[-1]['memory_ratio']:8.2f}"
                f"{ms.get('torch', math.nan):9.2f}{against_torch:7.2f}",
                flush=True,
            )
    return rows


def main() -> None:
    """Prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser(description="Times the losses.")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    parser.add_argument("--only", default="", help="only losses whose name contains this")
    parser.add_argument("--rounds", type=int, default=60, help="calls of each version")
    parser.add_argument("--hardware", default="", help="what it ran on, for the record")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    args = parser.parse_args()
    rows = measure(args.only, args.rounds)
    if args.out:
        versions = {"jax": jax.__version__, "optax": optax.__version__}
        if torch_cases():
            import torch  # pyright: ignore[reportMissingImports]

            versions["torch"] = torch.__version__
        record = {
            "what": "value and gradient of the batch mean under jit, medians in milliseconds",
            "date": args.date,
            "hardware": args.hardware,
            "backend": jax.default_backend(),
            "versions": versions,
            "rounds": args.rounds,
            "rows": rows,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
