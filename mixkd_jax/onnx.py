"""From a traced function of a batch of images to an ONNX graph.

Whatever doesn't depend on the images is computed here, once; what is left are the few operators
that classifiers consist of. (jax2onnx 0.17, which covers many more, gives graphs of residual
networks that ONNX Runtime refuses, and holds back orbax.)
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

OPSET = 18
INPUT = "images"


class OnnxError(ValueError):
    """A function that can't be written as an ONNX graph here."""


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A value that depends on the images: its name in the graph."""

    name: str
    shape: tuple[Any, ...]


# A value that doesn't is an array; where its shape is to have the size of the batch, it has 1.
_Value = _Tensor | np.ndarray

_ELEMENTWISE = {
    **{"add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow"},
    **{"max": "Max", "min": "Min", "abs": "Abs", "neg": "Neg", "sign": "Sign", "floor": "Floor"},
    **{"exp": "Exp", "log": "Log", "sqrt": "Sqrt", "tanh": "Tanh", "logistic": "Sigmoid"},
    **{"erf": "Erf", "sin": "Sin", "cos": "Cos", "not": "Not", "and": "And", "or": "Or"},
    **{"gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual", "eq": "Equal"},
}
_SAME = {"stop_gradient", "copy", "copy_p", "optimization_barrier", "sharding_constraint"}
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr", "remat": "jaxpr"}
_CALLS |= {"custom_vjp_call": "call_jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr"}


def convert(
    function: Callable[[jax.Array], dict[str, jax.Array]], image_shape: Sequence[int]
) -> bytes:
    """Returns an ONNX model, whose batch size is free.

    Args:
      function: from images u8[B, *image_shape] to named outputs [B, ...]; its constants become
        those of the graph.
      image_shape: height, width and channels.

    Raises:
      OnnxError: for what has no operator here; the message names it.
    """
    import onnx
    import onnx.helper

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *image_shape), np.uint8)
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(images)
    graph = _Graph()
    results = graph.run(traced.jaxpr, traced.consts, [_Tensor(INPUT, images.shape)])
    outputs = []
    for (name, shape), value in zip(sorted(shapes.items()), results, strict=True):
        graph.node("Identity", [value], output=name)
        kind = onnx.helper.np_dtype_to_tensor_dtype(shape.dtype)
        sizes = ["batch" if not isinstance(d, int) else d for d in shape.shape]
        outputs.append(onnx.helper.make_tensor_value_info(name, kind, sizes))
    whole = onnx.helper.make_graph(
        graph.nodes,
        "classifier",
        [
            onnx.helper.make_tensor_value_info(
                INPUT, onnx.TensorProto.UINT8, ["batch", *image_shape]
            )
        ],
        outputs,
        graph.initializers,
    )
    model = onnx.helper.make_model(
        whole,
        producer_name="mixkd_jax",
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=10,  # as old as the operators, so that older runtimes read it
    )
    return model.SerializeToString()


class _Graph:
    """The nodes and constants of a graph while it is written."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[_Value]) -> list[_Value]:
        """Writes all equations of a jaxpr and returns its outputs."""
        known: dict[Any, _Value] = {}
        known.update(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        known.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> _Value:
            return np.asarray(atom.val) if hasattr(atom, "val") else known[atom]

        for eqn in jaxpr.eqns:
            values = [read(atom) for atom in eqn.invars]
            known.update(zip(eqn.outvars, self._equation(eqn, values), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def node(self, kind: str, inputs: Sequence[_Value], *, output: str = "", **options: Any) -> str:
        """Writes a node with one output and returns the output's name."""
        import onnx

        name = output or f"v{len(self.nodes)}"
        names = [self._name(value) for value in inputs]
        self.nodes.append(onnx.helper.make_node(kind, names, [name], **options))
        return name

    def _name(self, value: _Value) -> str:
        import onnx

        if isinstance(value, _Tensor):
            return value.name
        name = f"c{len(self.initializers)}"
        self.initializers.append(onnx.numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def _equation(self, eqn: Any, values: list[_Value]) -> list[_Value]:
        kind = eqn.primitive.name
        if kind in _CALLS:
            inner = eqn.params[_CALLS[kind]]
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values)
        if kind in _SAME:
            return values
        if not any(isinstance(value, _Tensor) for value in values):
            return _computed(eqn, values)
        shape = tuple(eqn.outvars[0].aval.shape)
        write = getattr(self, f"_{kind}", None)
        if kind in _ELEMENTWISE:
            name = self.node(_ELEMENTWISE[kind], values)
        elif write is not None:
            name = write(eqn, *values)
        else:
            raise OnnxError(f"no ONNX operator is known here for JAX's {kind}")
        return [_Tensor(name, shape)]

    # Each of these writes the primitive of its name and returns the output's name.

    def _convert_element_type(self, eqn: Any, x: _Value) -> str:
        import onnx

        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
        return self.node("Cast", [x], to=kind)

    def _rsqrt(self, eqn: Any, x: _Value) -> str:
        return self.node("Reciprocal", [_Tensor(self.node("Sqrt", [x]), ())])

    def _square(self, eqn: Any, x: _Value) -> str:
        return self.node("Mul", [x, x])

    def _integer_pow(self, eqn: Any, x: _Value) -> str:
        return self.node("Pow", [x, np.asarray(eqn.params["y"], eqn.outvars[0].aval.dtype)])

    def _erfc(self, eqn: Any, x: _Value) -> str:
        one = np.ones((), eqn.outvars[0].aval.dtype)
        return self.node("Sub", [one, _Tensor(self.node("Erf", [x]), ())])

    def _ne(self, eqn: Any, x: _Value, y: _Value) -> str:
        return self.node("Not", [_Tensor(self.node("Equal", [x, y]), ())])

    def _clamp(self, eqn: Any, low: _Value, x: _Value, high: _Value) -> str:
        return self.node("Min", [_Tensor(self.node("Max", [x, low]), ()), high])

    def _select_n(self, eqn: Any, which: _Value, *cases: _Value) -> str:
        if len(cases) != 2 or eqn.invars[0].aval.dtype != np.bool_:
            raise OnnxError("select_n: expected two cases")
        return self.node("Where", [which, cases[1], cases[0]])

    def _transpose(self, eqn: Any, x: _Value) -> str:
        return self.node("Transpose", [x], perm=list(eqn.params["permutation"]))

    def _reshape(self, eqn: Any, x: _Value) -> str:
        return self._reshaped(x, eqn.outvars[0].aval.shape)

    _squeeze = _expand_dims = _reshape

    def _reshaped(self, x: _Value, shape: Sequence[Any]) -> str:
        sizes = [d if isinstance(d, int) else -1 for d in shape]
        if sizes.count(-1) > 1:
            raise OnnxError(f"reshape: expected one axis of free size, got {shape}")
        return self.node("Reshape", [x, np.array(sizes, np.int64)])

    def _broadcast_in_dim(self, eqn: Any, x: _Value, *_: _Value) -> str:
        assert isinstance(x, _Tensor)
        shape, kept = eqn.params["shape"], eqn.params["broadcast_dimensions"]
        sizes = {axis: x.shape[k] for k, axis in enumerate(kept)}
        bare = [sizes.get(axis, 1) for axis in range(len(shape))]
        name = self._reshaped(x, bare)
        if all(a is b or a == b for a, b in zip(bare, shape, strict=True)):
            return name
        return self._expanded(_Tensor(name, tuple(bare)), shape)

    def _expanded(self, x: _Value, shape: Sequence[Any]) -> str:
        own = x.shape
        if any(
            not isinstance(d, int) and isinstance(n, int) for d, n in zip(shape, own, strict=True)
        ):
            first = np.zeros(1, np.int64)
            sizes = self.node("Shape", [_Tensor(INPUT, ())])
            batch = _Tensor(self.node("Gather", [_Tensor(sizes, ()), first]), ())
            parts = [np.array([d], np.int64) if isinstance(d, int) else batch for d in shape]
            return self.node("Expand", [x, _Tensor(self.node("Concat", parts, axis=0), ())])
        sizes = [d if isinstance(d, int) else 1 for d in shape]
        return self.node("Expand", [x, np.array(sizes, np.int64)])

    def _concatenate(self, eqn: Any, *values: _Value) -> str:
        whole = [
            value
            if isinstance(value, _Tensor)
            else _Tensor(self._expanded(value, atom.aval.shape), tuple(atom.aval.shape))
            for value, atom in zip(values, eqn.invars, strict=True)
        ]
        return self.node("Concat", whole, axis=eqn.params["dimension"])

    def _pad(self, eqn: Any, x: _Value, fill: _Value) -> str:
        low, high, within = zip(*eqn.params["padding_config"], strict=True)
        if min(*low, *high) < 0 or any(within):
            raise OnnxError(f"pad: expected sizes of at least 0 around, got {(low, high, within)}")
        return self.node("Pad", [x, np.array([*low, *high], np.int64), fill])

    def _slice(self, eqn: Any, x: _Value) -> str:
        start, stop = eqn.params["start_indices"], eqn.params["limit_indices"]
        step = eqn.params["strides"] or (1,) * len(start)
        axes = [axis for axis, size in enumerate(stop) if isinstance(size, int)]
        ranges = ([values[axis] for axis in axes] for values in (start, stop))
        arrays = [*ranges, axes, [step[axis] for axis in axes]]
        return self.node("Slice", [x, *(np.array(values, np.int64) for values in arrays)])

    def _gather(self, eqn: Any, x: _Value, indices: _Value) -> str:
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
        flat = _Tensor(self._reshaped(x, merged), merged)
        name = self.node("Gather", [flat, np.asarray(places, np.int64)], axis=first)
        # ONNX puts the axes of the places where the axis was, JAX where `offset_dims` leaves room.
        rank = len(merged) - 1 + places.ndim
        room = [axis for axis in range(rank) if axis not in how.offset_dims]
        others = [*range(first), *range(first + places.ndim, rank)]
        source = dict(zip(how.offset_dims, others, strict=True))
        source |= {axis: first + k for k, axis in enumerate(room)}
        return self.node("Transpose", [_Tensor(name, ())], perm=[source[k] for k in range(rank)])

    def _reduce(self, kind: str, eqn: Any, x: _Value) -> str:
        axes = np.array(eqn.params["axes"], np.int64)
        return self.node(kind, [x, axes], keepdims=0)

    def _reduce_sum(self, eqn: Any, x: _Value) -> str:
        return self._reduce("ReduceSum", eqn, x)

    def _reduce_max(self, eqn: Any, x: _Value) -> str:
        return self._reduce("ReduceMax", eqn, x)

    def _reduce_min(self, eqn: Any, x: _Value) -> str:
        return self._reduce("ReduceMin", eqn, x)

    def _reduce_window_max(self, eqn: Any, x: _Value) -> str:
        return self._pooled("MaxPool", eqn, x)

    def _reduce_window_sum(self, eqn: Any, x: _Value) -> str:
        mean = _Tensor(self._pooled("AveragePool", eqn, x, count_include_pad=1), ())
        size = np.prod(eqn.params["window_dimensions"])
        return self.node("Mul", [mean, np.asarray(size, eqn.outvars[0].aval.dtype)])

    def _pooled(self, kind: str, eqn: Any, x: _Value, **options: Any) -> str:
        window, strides = eqn.params["window_dimensions"], eqn.params["window_strides"]
        low, high = zip(*eqn.params["padding"], strict=True)
        dilated = any(d != 1 for name in ("base", "window") for d in eqn.params[f"{name}_dilation"])
        if len(window) != 4 or window[0] != 1 or window[3] != 1 or dilated:
            raise OnnxError(f"pooling: expected a window over height and width, got {window}")
        name = self.node(
            kind,
            [_Tensor(self.node("Transpose", [x], perm=[0, 3, 1, 2]), ())],
            kernel_shape=list(window[1:3]),
            strides=list(strides[1:3]),
            pads=[*low[1:3], *high[1:3]],
            **options,
        )
        return self.node("Transpose", [_Tensor(name, ())], perm=[0, 2, 3, 1])

    def _conv_general_dilated(self, eqn: Any, x: _Value, kernel: _Value) -> str:
        given, how = eqn.params, eqn.params["dimension_numbers"]
        if any(d != 1 for d in given["lhs_dilation"]) or given["batch_group_count"] != 1:
            raise OnnxError("convolution: expected one that isn't transposed")
        low, high = zip(*given["padding"], strict=True)
        if isinstance(kernel, np.ndarray):
            kernel = kernel.transpose(how.rhs_spec)
        else:
            kernel = _Tensor(self.node("Transpose", [kernel], perm=list(how.rhs_spec)), ())
        name = self.node(
            "Conv",
            [_Tensor(self.node("Transpose", [x], perm=list(how.lhs_spec)), ()), kernel],
            strides=list(given["window_strides"]),
            dilations=list(given["rhs_dilation"]),
            pads=[*low, *high],
            group=given["feature_group_count"],
        )
        back = np.argsort(how.out_spec).tolist()
        return self.node("Transpose", [_Tensor(name, ())], perm=back)

    def _dot_general(self, eqn: Any, x: _Value, y: _Value) -> str:
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


def _computed(eqn: Any, values: Sequence[_Value]) -> list[_Value]:
    """Computes what doesn't depend on the images, with 1 for the size of the batch."""
    params = dict(eqn.params)
    free = any(not isinstance(d, int) for var in eqn.outvars for d in var.aval.shape)
    if free:
        name = {"broadcast_in_dim": "shape", "reshape": "new_sizes"}.get(eqn.primitive.name)
        if name is None and eqn.primitive.name == "iota":
            raise OnnxError("iota: expected a fixed size")
        if name is not None:
            params[name] = tuple(d if isinstance(d, int) else 1 for d in params[name])
            values = values[:1]  # behind it are sizes
    results = eqn.primitive.bind(*map(jax.numpy.asarray, values), **params)
    return list(map(np.asarray, results if eqn.primitive.multiple_results else [results]))
