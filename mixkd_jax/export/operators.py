"""ONNX operators for the primitives of JAX that classifiers consist of."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

INPUT = "images"


class OnnxError(ValueError):
    """A function that can't be written as an ONNX graph here."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A value that depends on the images: its name in the graph."""

    name: str
    shape: tuple[Any, ...]


# A value that doesn't is an array; where its shape is to have the size of the batch, it has 1.
Value = Tensor | np.ndarray


class Operators:
    """The nodes and constants of a graph while it is written."""

    def __init__(self) -> None:
        """Begins with none."""
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def node(self, kind: str, inputs: Sequence[Value], *, output: str = "", **options: Any) -> str:
        """Writes a node with one output and returns the output's name."""
        from onnx import helper

        name = output or f"v{len(self.nodes)}"
        names = [self._name(value) for value in inputs]
        self.nodes.append(helper.make_node(kind, names, [name], **options))
        return name

    def _name(self, value: Value) -> str:
        from onnx import numpy_helper

        if isinstance(value, Tensor):
            return value.name
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    # Each of these writes the primitive of its name and returns the output's name.

    def _convert_element_type(self, eqn: Any, x: Value) -> str:
        from onnx import helper

        kind = helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
        return self.node("Cast", [x], to=kind)

    def _rsqrt(self, eqn: Any, x: Value) -> str:
        return self.node("Reciprocal", [Tensor(self.node("Sqrt", [x]), ())])

    def _square(self, eqn: Any, x: Value) -> str:
        return self.node("Mul", [x, x])

    def _integer_pow(self, eqn: Any, x: Value) -> str:
        return self.node("Pow", [x, np.asarray(eqn.params["y"], eqn.outvars[0].aval.dtype)])

    def _erfc(self, eqn: Any, x: Value) -> str:
        one = np.ones((), eqn.outvars[0].aval.dtype)
        return self.node("Sub", [one, Tensor(self.node("Erf", [x]), ())])

    def _ne(self, eqn: Any, x: Value, y: Value) -> str:
        return self.node("Not", [Tensor(self.node("Equal", [x, y]), ())])

    def _clamp(self, eqn: Any, low: Value, x: Value, high: Value) -> str:
        return self.node("Min", [Tensor(self.node("Max", [x, low]), ()), high])

    def _select_n(self, eqn: Any, which: Value, *cases: Value) -> str:
        if len(cases) != 2 or eqn.invars[0].aval.dtype != np.bool_:
            raise OnnxError("select_n: expected two cases")
        return self.node("Where", [which, cases[1], cases[0]])

    def _transpose(self, eqn: Any, x: Value) -> str:
        return self.node("Transpose", [x], perm=list(eqn.params["permutation"]))

    def _reshape(self, eqn: Any, x: Value) -> str:
        return self._reshaped(x, eqn.outvars[0].aval.shape)

    _squeeze = _expand_dims = _reshape

    def _reshaped(self, x: Value, shape: Sequence[Any]) -> str:
        sizes = [d if isinstance(d, int) else -1 for d in shape]
        if sizes.count(-1) > 1:
            raise OnnxError(f"reshape: expected one axis of free size, got {shape}")
        return self.node("Reshape", [x, np.array(sizes, np.int64)])

    def _broadcast_in_dim(self, eqn: Any, x: Value, *_: Value) -> str:
        assert isinstance(x, Tensor)
        shape, kept = eqn.params["shape"], eqn.params["broadcast_dimensions"]
        sizes = {axis: x.shape[k] for k, axis in enumerate(kept)}
        bare = [sizes.get(axis, 1) for axis in range(len(shape))]
        name = self._reshaped(x, bare)
        if all(a is b or a == b for a, b in zip(bare, shape, strict=True)):
            return name
        return self._expanded(Tensor(name, tuple(bare)), shape)

    def _expanded(self, x: Value, shape: Sequence[Any]) -> str:
        own = x.shape
        if any(
            not isinstance(d, int) and isinstance(n, int) for d, n in zip(shape, own, strict=True)
        ):
            first = np.zeros(1, np.int64)
            sizes = self.node("Shape", [Tensor(INPUT, ())])
            batch = Tensor(self.node("Gather", [Tensor(sizes, ()), first]), ())
            parts = [np.array([d], np.int64) if isinstance(d, int) else batch for d in shape]
            return self.node("Expand", [x, Tensor(self.node("Concat", parts, axis=0), ())])
        sizes = [d if isinstance(d, int) else 1 for d in shape]
        return self.node("Expand", [x, np.array(sizes, np.int64)])

    def _concatenate(self, eqn: Any, *values: Value) -> str:
        whole = [
            value
            if isinstance(value, Tensor)
            else Tensor(self._expanded(value, atom.aval.shape), tuple(atom.aval.shape))
            for value, atom in zip(values, eqn.invars, strict=True)
        ]
        return self.node("Concat", whole, axis=eqn.params["dimension"])

    def _pad(self, eqn: Any, x: Value, fill: Value) -> str:
        low, high, within = zip(*eqn.params["padding_config"], strict=True)
        if min(*low, *high) < 0 or any(within):
            raise OnnxError(f"pad: expected sizes of at least 0 around, got {(low, high, within)}")
        return self.node("Pad", [x, np.array([*low, *high], np.int64), fill])

    def _slice(self, eqn: Any, x: Value) -> str:
        start, stop = eqn.params["start_indices"], eqn.params["limit_indices"]
        step = eqn.params["strides"] or (1,) * len(start)
        axes = [axis for axis, size in enumerate(stop) if isinstance(size, int)]
        ranges = ([values[axis] for axis in axes] for values in (start, stop))
        arrays = [*ranges, axes, [step[axis] for axis in axes]]
        return self.node("Slice", [x, *(np.array(values, np.int64) for values in arrays)])

    def _gather(self, eqn: Any, x: Value, indices: Value) -> str:
        """Writes the gather of constant places along axes side by side, as `x[:, ::2, ::2]` is."""
        how, taken = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
        axes, sizes = tuple(how.start_index_map), x.shape
        first, count = axes[0], len(axes)
        plain = (
            isinstance(indices, np.ndarray)
            and axes == tuple(range(first, first + count)) == tuple(how.collapsed_slice_dims)
            and not how.operand_batching_dims
            and all(k in axes or d is n or d == n for k, (d, n) in enumerate(zip(taken, sizes)))  # noqa: B905
        )
        if not plain:
            raise OnnxError("gather: expected constant places along axes side by side")
        assert isinstance(indices, np.ndarray)
        within = sizes[first : first + count]
        places = np.ravel_multi_index(tuple(np.moveaxis(indices.astype(np.int64), -1, 0)), within)
        merged = (*sizes[:first], int(np.prod(within)), *sizes[first + count :])
        flat = Tensor(self._reshaped(x, merged), merged)
        name = self.node("Gather", [flat, np.asarray(places, np.int64)], axis=first)
        # ONNX puts the axes of the places where the axis was, JAX where `offset_dims` leaves room.
        rank = len(merged) - 1 + places.ndim
        room = [axis for axis in range(rank) if axis not in how.offset_dims]
        others = [*range(first), *range(first + places.ndim, rank)]
        source = dict(zip(how.offset_dims, others, strict=True))
        source |= {axis: first + k for k, axis in enumerate(room)}
        return self.node("Transpose", [Tensor(name, ())], perm=[source[k] for k in range(rank)])

    def _reduce(self, kind: str, eqn: Any, x: Value) -> str:
        axes = np.array(eqn.params["axes"], np.int64)
        return self.node(kind, [x, axes], keepdims=0)

    def _reduce_sum(self, eqn: Any, x: Value) -> str:
        return self._reduce("ReduceSum", eqn, x)

    def _reduce_max(self, eqn: Any, x: Value) -> str:
        return self._reduce("ReduceMax", eqn, x)

    def _reduce_min(self, eqn: Any, x: Value) -> str:
        return self._reduce("ReduceMin", eqn, x)

    def _reduce_window_max(self, eqn: Any, x: Value) -> str:
        return self._pooled("MaxPool", eqn, x)

    def _reduce_window_sum(self, eqn: Any, x: Value) -> str:
        mean = Tensor(self._pooled("AveragePool", eqn, x, count_include_pad=1), ())
        size = np.prod(eqn.params["window_dimensions"])
        return self.node("Mul", [mean, np.asarray(size, eqn.outvars[0].aval.dtype)])

    def _pooled(self, kind: str, eqn: Any, x: Value, **options: Any) -> str:
        window, strides = eqn.params["window_dimensions"], eqn.params["window_strides"]
        low, high = zip(*eqn.params["padding"], strict=True)
        dilated = any(d != 1 for name in ("base", "window") for d in eqn.params[f"{name}_dilation"])
        if len(window) != 4 or window[0] != 1 or window[3] != 1 or dilated:
            raise OnnxError(f"pooling: expected a window over height and width, got {window}")
        name = self.node(
            kind,
            [Tensor(self.node("Transpose", [x], perm=[0, 3, 1, 2]), ())],
            kernel_shape=list(window[1:3]),
            strides=list(strides[1:3]),
            pads=[*low[1:3], *high[1:3]],
            **options,
        )
        return self.node("Transpose", [Tensor(name, ())], perm=[0, 2, 3, 1])

    def _conv_general_dilated(self, eqn: Any, x: Value, kernel: Value) -> str:
        given, how = eqn.params, eqn.params["dimension_numbers"]
        if any(d != 1 for d in given["lhs_dilation"]) or given["batch_group_count"] != 1:
            raise OnnxError("convolution: expected one that isn't transposed")
        low, high = zip(*given["padding"], strict=True)
        if isinstance(kernel, np.ndarray):
            kernel = kernel.transpose(how.rhs_spec)
        else:
            kernel = Tensor(self.node("Transpose", [kernel], perm=list(how.rhs_spec)), ())
        name = self.node(
            "Conv",
            [Tensor(self.node("Transpose", [x], perm=list(how.lhs_spec)), ()), kernel],
            strides=list(given["window_strides"]),
            dilations=list(given["rhs_dilation"]),
            pads=[*low, *high],
            group=given["feature_group_count"],
        )
        back = np.argsort(how.out_spec).tolist()
        return self.node("Transpose", [Tensor(name, ())], perm=back)

    def _dot_general(self, eqn: Any, x: Value, y: Value) -> str:
        (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
        letters = iter(string.ascii_letters)
        ranks = [len(atom.aval.shape) for atom in eqn.invars]
        names = [[""] * rank for rank in ranks]
        for pairs in (zip(left_batch, right_batch, strict=True), zip(left, right, strict=True)):
            for a, b in pairs:
                names[0][a] = names[1][b] = next(letters)
        for axes in names:
            axes[:] = [name or next(letters) for name in axes]
        shared = [names[0][a] for a in left_batch]
        gone = {*shared, *(names[0][a] for a in left)}
        result = shared + [name for axes in names for name in axes if name not in gone]
        equation = f"{''.join(names[0])},{''.join(names[1])}->{''.join(result)}"
        return self.node("Einsum", [x, y], equation=equation)
