"""Teachers that are no Linen modules: any function, one on the host, or several at once.

docs/teachers.md has examples with Flax NNX, Equinox and PyTorch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from mixkd_jax.models.network import Classifier, Network, Teacher


class TeacherError(ValueError):
    """A teacher that isn't one, or whose answers can't be learned from."""


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """A function that jit can trace, from images f32[B, H, W, C] in [0, 255] to logits [B, C].

    Attributes:
      function: of (variables, images), or of images alone.
      has_variables: which of the two.
    """

    function: Callable[..., jax.Array]
    has_variables: bool

    @property
    def on_host(self) -> bool:
        """False: it runs on the devices."""
        return False

    def logits(self, variables: Any, images: jax.Array) -> jax.Array:
        """Returns the function's logits as f32[B, C]."""
        arguments = (variables, images) if self.has_variables else (images,)
        return self.function(*(*arguments[:-1], images.astype(jnp.float32))).astype(jnp.float32)

    def logits_and_features(self, variables: Any, images: jax.Array) -> tuple[jax.Array, None]:
        """Returns the logits, and no features."""
        return self.logits(variables, images), None


@dataclasses.dataclass(frozen=True, eq=False)
class HostFunction:
    """A function of NumPy arrays that runs on the host; `host_teacher` makes one.

    Attributes:
      function: from images f32[B, H, W, C] in [0, 255] to logits [B, C].
      num_classes: C.
    """

    function: Callable[[np.ndarray], Any]
    num_classes: int

    @property
    def on_host(self) -> bool:
        """True: it is called between compiled programs."""
        return True

    def __call__(self, images: Any) -> jax.Array:
        """Returns logits f32[B, C]; within a jit, through `jax.pure_callback`."""
        images = jnp.asarray(images)
        if isinstance(images, Tracer):
            shape = jax.ShapeDtypeStruct((images.shape[0], self.num_classes), jnp.float32)
            return jax.pure_callback(self._answer, shape, images, vmap_method="sequential")
        return self._answer_shards(images)

    def logits(self, variables: Any, images: jax.Array) -> jax.Array:
        """Returns logits f32[B, C], split over the devices as the images are."""
        del variables
        return self(images)

    def logits_and_features(self, variables: Any, images: jax.Array) -> tuple[jax.Array, None]:
        """Returns the logits, and no features."""
        return self.logits(variables, images), None

    def _answer_shards(self, images: jax.Array) -> jax.Array:
        """Calls the function once, for the images that lie on this process's devices."""
        parts = {
            shard.index[0].indices(len(images))[:2]: shard for shard in images.addressable_shards
        }
        pixels = [np.asarray(shard.data) for shard in parts.values()]
        answers = iter(
            np.split(
                self._answer(np.concatenate(pixels)), np.cumsum([len(part) for part in pixels])[:-1]
            )
        )
        rows = {place: next(answers) for place in parts}
        sharding = images.sharding
        if isinstance(sharding, jax.sharding.NamedSharding):
            spec = jax.sharding.PartitionSpec(*sharding.spec[:1])
            sharding = jax.sharding.NamedSharding(sharding.mesh, spec)
        shape = (len(images), self.num_classes)
        return jax.make_array_from_callback(
            shape,
            sharding,
            lambda index: rows[index[0].indices(len(images))[:2]],  # pyright: ignore[reportOptionalSubscript]
        )

    def _answer(self, images: Any) -> np.ndarray:
        images = np.asarray(images, np.float32)
        found = np.asarray(self.function(images))
        expected = (len(images), self.num_classes)
        if found.shape != expected or found.dtype.kind != "f":
            raise TeacherError(
                f"teacher: expected logits of floats {list(expected)} for images "
                f"{list(images.shape)}, got {found.dtype}{list(found.shape)}"
            )
        check_answers(found)
        return found.astype(np.float32)


def host_teacher(function: Callable[[np.ndarray], Any], num_classes: int) -> HostFunction:
    """Returns a teacher that runs on the host, such as a model of PyTorch or of ONNX Runtime.

    A run calls it between its compiled steps, once for all students that share a batch, with the
    images that lie on this process's devices. Within a function of your own that you compile, it is
    a `jax.pure_callback`: on one device only, for jaxlib's callbacks can hang on several CPUs.

    Args:
      function: from images f32[B, H, W, C], a NumPy array in [0, 255], to logits [B, C], anything
        that NumPy makes an array of. Gradients are not asked of it.
      num_classes: C.

    Raises:
      TeacherError: where it is called, if its answers have another shape or aren't finite.
    """
    return HostFunction(function, num_classes)


@dataclasses.dataclass(frozen=True, eq=False)
class Average:
    """Several classifiers whose probabilities are averaged; logits are the logarithm of the mean.

    Attributes:
      members: the classifiers; the variables are a tuple of theirs.
    """

    members: tuple[Classifier, ...]

    def __post_init__(self) -> None:
        """Compiles each member on its own, for one on the host keeps the whole from it."""
        compiled = tuple(m.logits if m.on_host else jax.jit(m.logits) for m in self.members)
        object.__setattr__(self, "_logits", compiled)

    @property
    def on_host(self) -> bool:
        """Whether one of them runs there."""
        return any(member.on_host for member in self.members)

    def logits(self, variables: tuple[Any, ...], images: jax.Array) -> jax.Array:
        """Returns log mean softmax f32[B, C]."""
        logits = [f(v, images) for f, v in zip(self._logits, variables, strict=True)]  # pyright: ignore[reportAttributeAccessIssue]
        logs = jnp.stack([jax.nn.log_softmax(z.astype(jnp.float32)) for z in logits])
        return jax.nn.logsumexp(logs, axis=0) - jnp.log(jnp.float32(len(logits)))

    def logits_and_features(
        self, variables: tuple[Any, ...], images: jax.Array
    ) -> tuple[jax.Array, None]:
        """Returns the logits, and no features."""
        return self.logits(variables, images), None


def as_teacher(given: Any) -> Teacher:
    """Returns the teacher that is meant.

    Args:
      given: a `Teacher`; a `Network` or a function with its variables, as a pair; a function of
        images alone; a `host_teacher`; or a list of several of these, to be averaged.

    Raises:
      TeacherError: for anything else.
    """
    if isinstance(given, Teacher):
        return given
    if isinstance(given, list):
        if not given:
            raise TeacherError("teacher: expected at least one in the list, got none")
        teachers = [as_teacher(each) for each in given]
        if len(teachers) == 1:
            return teachers[0]
        members = tuple(each.network for each in teachers)
        return Teacher(Average(members), tuple(each.variables for each in teachers))
    pair: Any = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    function, variables = pair
    if isinstance(function, Network) and variables is not None:
        return Teacher(function, variables)
    if isinstance(function, HostFunction):
        return Teacher(function, {})
    if isinstance(function, Network) or not callable(function):
        what = "a Network without its variables" if isinstance(function, Network) else repr(given)
        raise TeacherError(
            "teacher: expected a function from images to logits, or a pair of a function or a "
            f"Network and its variables, or a list of these, got {what}"
        )
    if variables is None:
        return Teacher(Function(function, has_variables=False), {})  # pyright: ignore[reportArgumentType]
    return Teacher(Function(function, has_variables=True), variables)  # pyright: ignore[reportArgumentType]


def check(teacher: Teacher, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Checks a teacher's variables and the shape of its answers; compiles nothing.

    Raises:
      TeacherError: for a variable that isn't finite, a function that can't be traced, or logits of
        another shape.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(teacher.variables):
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TeacherError(
                f"teacher: expected arrays as variables, got {type(leaf).__name__} at "
                f"{jax.tree_util.keystr(path)}"
            )
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.isfinite(leaf).all()):
            name = jax.tree_util.keystr(path)
            raise TeacherError(f"teacher: expected finite variables, got NaN or inf in {name}")
    images = jnp.zeros((2, *image_shape), jnp.float32)
    try:
        if teacher.network.on_host:
            found: Any = teacher.network.logits(teacher.variables, images)
        else:
            found = jax.eval_shape(teacher.network.logits, teacher.variables, images)
    except TeacherError:
        raise
    except Exception as error:  # it is somebody else's code
        raise TeacherError(
            f"teacher: can't be asked about images {list(images.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    shape, dtype = getattr(found, "shape", None), getattr(found, "dtype", None)
    if shape != (2, num_classes) or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TeacherError(
            f"teacher: expected logits [2, {num_classes}] for images {list(images.shape)}, got "
            f"{dtype}{list(shape or ())}"
        )


def check_answers(logits: np.ndarray) -> None:
    """Raises TeacherError if logits [B, C] have NaN, or inf; -inf rules a class out and may be."""
    bad = np.isnan(logits) | (logits == np.inf)
    if bad.any():
        rows = np.flatnonzero(bad.any(-1))
        raise TeacherError(
            f"teacher: expected finite logits, got NaN or inf for {len(rows)} of {len(logits)} "
            f"images, the first of them number {rows[0]}"
        )
