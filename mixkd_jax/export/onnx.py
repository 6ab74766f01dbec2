"""From a traced function of a batch of images to an ONNX graph.

Whatever doesn't depend on the images is computed here, once; what is left are the few operators
that classifiers consist of. (jax2onnx 0.17, which covers many more, gives graphs of residual
networks that ONNX Runtime refuses, and holds back orbax.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mixkd_jax.export.operators import INPUT, OnnxError, Operators, Tensor, Value

OPSET = 18

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
    from onnx import TensorProto, helper

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *image_shape), np.uint8)
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(images)
    graph = _Graph()
    results = graph.run(traced.jaxpr, traced.consts, [Tensor(INPUT, images.shape)])
    outputs = []
    for (name, shape), value in zip(sorted(shapes.items()), results, strict=True):
        graph.node("Identity", [value], output=name)
        kind = helper.np_dtype_to_tensor_dtype(shape.dtype)
        sizes = ["batch" if not isinstance(d, int) else d for d in shape.shape]
        outputs.append(helper.make_tensor_value_info(name, kind, sizes))
    whole = helper.make_graph(
        graph.nodes,
        "classifier",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", *image_shape])],
        outputs,
        graph.initializers,
    )
    model = helper.make_model(
        whole,
        producer_name="mixkd_jax",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=10,  # as old as the operators, so that older runtimes read it
    )
    return model.SerializeToString()


class _Graph(Operators):
    """A graph that is written from a jaxpr."""

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Value]) -> list[Value]:
        """Writes all equations of a jaxpr and returns its outputs."""
        known: dict[Any, Value] = {}
        known.update(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        known.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            return np.asarray(atom.val) if hasattr(atom, "val") else known[atom]

        for eqn in jaxpr.eqns:
            values = [read(atom) for atom in eqn.invars]
            known.update(zip(eqn.outvars, self._equation(eqn, values), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, values: list[Value]) -> list[Value]:
        kind = eqn.primitive.name
        if kind in _CALLS:
            inner = eqn.params[_CALLS[kind]]
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values)
        if kind in _SAME:
            return values
        if not any(isinstance(value, Tensor) for value in values):
            return _computed(eqn, values)
        shape = tuple(eqn.outvars[0].aval.shape)
        write = getattr(self, f"_{kind}", None)
        if kind in _ELEMENTWISE:
            name = self.node(_ELEMENTWISE[kind], values)
        elif write is not None:
            name = write(eqn, *values)
        else:
            raise OnnxError(f"no ONNX operator is known here for JAX's {kind}")
        return [Tensor(name, shape)]


def _computed(eqn: Any, values: Sequence[Value]) -> list[Value]:
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
