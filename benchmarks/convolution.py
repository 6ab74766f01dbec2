"""Rates of a convolution on this CPU: XLA's, other ways of writing it, and PyTorch's.

    OMP_WAIT_POLICY=passive python benchmarks/convolution.py --out=docs/results/convolution.json

3x3, stride 1, float32, in the shapes of a WRN at 32 pixels: forward, the gradient in the inputs and
the gradient in the weights. The last one is also written as products of matrices, patches of the
inputs with the gradient of the outputs: all at once, a row of the kernel at a time, and image by
image. XLA's product of matrices alone, which bounds these, stands beside them, and PyTorch (extra
`bench`) with its channels last. Forward and both gradients together also come in other layouts, and
after BatchNorm and ReLU, Flax's and ours: what the convolution alone takes less is the most that
fusing them by hand could save. All take turns.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tabulate

from mixkd_jax import cpu
from mixkd_jax.models import batch_norm

SHAPES = ((32, 16), (32, 32), (16, 64), (8, 128))  # pixels, channels


def main() -> None:
    """Prints and, with --out, writes GFLOP/s of each."""
    options = _options()
    cpu.tune()
    rng = np.random.default_rng(0)
    rows = []
    for side, channels in SHAPES:
        shape = (options.batch_size, side, side, channels)
        x, t = rng.standard_normal((2, *shape), np.float32)
        w = rng.standard_normal((3, 3, channels, channels), np.float32)
        flops = 2 * x.size * 9 * channels
        once = {**_jax_calls(x, w, t), **_torch_calls(x, w, t)}
        seconds = _medians({**once, **(thrice := _training_calls(x, w, t))}, options.repeats)
        rates = {
            name: round(flops * (3 if name in thrice else 1) / s / 1e9, 1)
            for name, s in seconds.items()
        }
        rows.append({"pixels": side, "channels": channels, **rates})
    print(tabulate.tabulate([[name, *(row[name] for row in rows)] for name in rows[0]]))
    if options.out:
        about = {
            "what": "GFLOP/s, medians",
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "jax": jax.__version__,
            "date": datetime.date.today().isoformat(),
            "batch size": options.batch_size,
            "repeats": options.repeats,
        }
        pathlib.Path(options.out).write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


def _jax_calls(*arrays: np.ndarray) -> dict[str, Callable[[], Any]]:
    x, w, t = map(jnp.asarray, arrays)
    patches, gradient = jax.jit(_patches)(x), t.reshape(-1, t.shape[-1])
    want = _gradient_in_weights(x, w, t)
    calls: dict[str, Callable[[], Any]] = {
        "forward": _call(_convolve, x, w),
        "gradient in inputs": _call(lambda x, w, t: jax.vjp(_convolve, x, w)[1](t)[0], x, w, t),
        "gradient in weights": _call(_gradient_in_weights, x, w, t),
    }
    for form in (_by_patches, _by_rows, _by_images):
        got = form(x, w, t)
        np.testing.assert_allclose(got, want, atol=1e-4 * float(jnp.abs(want).max()))
        calls[f"the same {form.__name__.strip('_').replace('_', ' ')}"] = _call(form, x, w, t)
    product = jax.jit(lambda a, b: a.T @ b)
    calls["product of matrices alone"] = lambda: jax.block_until_ready(product(patches, gradient))
    return calls


def _call(function: Callable[..., jax.Array], *arrays: jax.Array) -> Callable[[], Any]:
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*arrays))


def _convolve(x: jax.Array, w: jax.Array, layout: str = "NHWC", kernel: str = "HWIO") -> jax.Array:
    form = (layout, kernel, layout)
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=form)


def _gradient_in_weights(x: jax.Array, w: jax.Array, t: jax.Array) -> jax.Array:
    return jax.vjp(_convolve, x, w)[1](t)[1]


def _patches(x: jax.Array) -> jax.Array:
    """Returns [pixels, 9 channels]."""
    *_, height, width, _ = x.shape
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)])
    shifted = [x[..., i : i + height, j : j + width, :] for i in range(3) for j in range(3)]
    patches = jnp.concatenate(shifted, -1)
    return patches.reshape(-1, patches.shape[-1])


def _by_patches(x: jax.Array, w: jax.Array, t: jax.Array) -> jax.Array:
    return (_patches(x).T @ t.reshape(-1, t.shape[-1])).reshape(w.shape)


def _by_rows(x: jax.Array, w: jax.Array, t: jax.Array) -> jax.Array:
    """Three shifts of the inputs with three of the outputs' gradient, which all pairs make nine."""
    inputs, outputs = w.shape[2:]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = jnp.concatenate([x[:, :, j : j + t.shape[2]] for j in range(3)], -1)
    t = jnp.concatenate([jnp.pad(t, ((0, 0), (i, 2 - i), (0, 0), (0, 0))) for i in range(3)], -1)
    pairs = x.reshape(-1, x.shape[-1]).T @ t.reshape(-1, t.shape[-1])
    return pairs.reshape(3, inputs, 3, outputs).transpose(2, 0, 1, 3)


def _by_images(x: jax.Array, w: jax.Array, t: jax.Array) -> jax.Array:
    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + _by_patches(image[0], w, image[1]), None

    return jax.lax.scan(add, jnp.zeros_like(w), (x, t))[0]


def _training_calls(*arrays: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Forward and both gradients in one program."""
    channels = arrays[0].shape[-1]

    def all_three(function: Callable[..., jax.Array], *arrays: jax.Array) -> Callable[[], Any]:
        *inputs, t = arrays

        def run(t: jax.Array, *inputs: jax.Array) -> Any:
            outputs, pull = jax.vjp(function, *inputs)
            return outputs, pull(t)

        return _call(run, t, *inputs)

    x, w, t = map(jnp.asarray, arrays)
    calls = {"training": all_three(_convolve, x, w, t)}
    for layout, kernel in (("NCHW", "OIHW"), ("HWCN", "HWIO"), ("CHWN", "IHWO")):
        own = (jnp.einsum(f"NHWC->{layout}", a) for a in (x, t))
        function = functools.partial(_convolve, layout=layout, kernel=kernel)
        x_own, t_own = own
        calls[f"training, {layout}"] = all_three(
            function, x_own, jnp.einsum(f"HWIO->{kernel}", w), t_own
        )
    scale = shift = jnp.ones(channels)
    for name, norm in (("Flax's", _flax), ("our", _ours)):
        calls[f"training, after {name} BatchNorm and ReLU"] = all_three(
            functools.partial(_block, norm), x, w, scale, shift, t
        )
    return calls


def _block(norm: Any, x: jax.Array, w: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """A convolution after BatchNorm and ReLU, as in a WRN."""
    return _convolve(jax.nn.relu(norm(x, scale, shift)), w)


def _ours(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    return batch_norm.normalize(x, scale, shift, 1e-5)[0]


def _flax(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    variables = {"params": {"scale": scale, "bias": shift}, "batch_stats": {"mean": 0, "var": 0}}
    return nn.BatchNorm(False, epsilon=1e-5).apply(variables, x, mutable="batch_stats")[0]


def _torch_calls(*arrays: np.ndarray) -> dict[str, Callable[[], Any]]:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    axes = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    last = torch.channels_last
    x, w, t = (
        torch.from_numpy(a.transpose(to).copy()).contiguous(memory_format=last)
        for a, to in zip(arrays, axes, strict=True)
    )
    grad: Any = torch.nn.grad  # pyright: ignore[reportAttributeAccessIssue]
    return {
        "PyTorch: forward": lambda: torch.nn.functional.conv2d(x, w, padding=1),
        "PyTorch: gradient in inputs": lambda: grad.conv2d_input(x.shape, w, t, padding=1),
        "PyTorch: gradient in weights": lambda: grad.conv2d_weight(x, w.shape, t, padding=1),
    }


def _medians(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Returns seconds; the first round is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--out", default="", help="file of JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
