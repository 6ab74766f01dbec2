"""From the paths in a Keras file to the places of `layout`: Keras 3 files and legacy ones."""

import collections
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

from mixkd_jax.weights.assign import Stored
from mixkd_jax.weights.errors import WeightsError
from mixkd_jax.weights.files import Structure
from mixkd_jax.weights.layout import VARIABLES, KerasLayer

Lists = Mapping[str, Mapping[str, list[str]]]
# What a file holds besides the weights of the model: of the optimizer, and of Dropout's generator.
_IGNORED = re.compile(r"(^|/)(optimizer|seed_generator)/vars/|^optimizer_weights/")
_NESTED = re.compile(r"layers/((?:functional|vi_t_backbone)(?:_\d+)?)/layers/")
_MODEL_NAME = re.compile(r"^convnext_[a-z]+_")  # keras.applications puts it before each layer's


def stored_weights(structure: Structure, layers: Sequence[KerasLayer]) -> dict[str, Stored]:
    """Finds the weights in a file, none of them read yet.

    A layer with a name of keras.applications is the layer of that name, any other is told by its
    class and number (Keras 3) or by its position (legacy), as in Keras itself.

    Args:
        structure: Of a Keras file.
        layers: Of the model, as `layout.keras_layers` returns them.

    Returns:
        Weights by place, such as ``layers/conv2d_3/vars/0``; others have their own path.

    Raises:
        WeightsError: If two layers claim one place, or a list names what isn't there.
    """
    weights = {path: data for path, data in structure.weights.items() if not _IGNORED.search(path)}
    lists = structure.lists
    roots = (root for root in ("", "model_weights/") if _legacy_list(lists, root, "layer_names"))
    legacy = next(roots, None)
    if legacy is None:
        return _keras3(weights, structure.names, layers)
    return _legacy(lists, legacy, weights, layers)


def _keras3(
    weights: dict[str, Stored], names: dict[str, str], layers: Sequence[KerasLayer]
) -> dict[str, Stored]:
    """Places of files of Keras 3; the layers of a nested model go before the others."""
    flat, names = _flatten(weights, names)
    known = _known_names(layers)
    renamed: dict[str, str] = {}
    for path in flat:
        group = path.split("/")[1] if path.startswith("layers/") else ""
        name = names.get(f"layers/{group}/vars", "")
        renamed[group] = known.get(_MODEL_NAME.sub("", name), group)
    _check_distinct(renamed)
    placed = {}
    for path, data in flat.items():
        first, _, rest = path.partition("/")
        group, _, variable = rest.partition("/")
        placed[f"layers/{renamed[group]}/{variable}" if first == "layers" else path] = data
    return placed


def _flatten(
    weights: dict[str, Stored], names: dict[str, str]
) -> tuple[dict[str, Stored], dict[str, str]]:
    """Moves the layers of a nested model into the outer one, whose numbers then go on after them.

    Keras saves ``Model(x, Dense()(base(x)))`` with ``base`` as a layer of its own.
    """
    while nested := {match[0] for path in weights if (match := _NESTED.match(path))}:
        if len(nested) > 1:
            raise WeightsError(f"holds several nested models, expected one: {sorted(nested)}")
        prefix = nested.pop()
        inner = {path.split("/")[3] for path in weights if path.startswith(prefix)}
        counts = collections.Counter(_split_number(group)[0] for group in inner)

        def move(path: str, prefix: str = prefix, counts: dict[str, int] = counts) -> str:
            if path.startswith(prefix):
                return "layers/" + path.removeprefix(prefix)
            if not path.startswith("layers/"):
                return path
            _, group, *rest = path.split("/")
            kind, number = _split_number(group)
            number += counts[kind]
            return "/".join(["layers", f"{kind}_{number}" if number else kind, *rest])

        weights = {move(path): data for path, data in weights.items()}
        names = {move(path): name for path, name in names.items()}
    return weights, names


def _split_number(group: str) -> tuple[str, int]:
    """Splits ``conv2d_3`` into ``conv2d`` and 3, and ``conv2d`` into ``conv2d`` and 0."""
    match = re.fullmatch(r"(.+?)(?:_(\d+))?", group)
    assert match, "an HDF5 name is not empty"
    return match[1], int(match[2] or 0)


def _legacy(
    lists: Lists,
    root: str,
    weights: dict[str, Stored],
    layers: Sequence[KerasLayer],
) -> dict[str, Stored]:
    """Places of a legacy file: its own list of layers, in the order of the model's."""
    groups = [
        (group, [place for layer in members for place in _variable_places(layer)])
        for group, members in itertools.groupby(layers, lambda layer: layer.h5.split("/")[0])
    ]
    by_group, known = dict(groups), _known_names(layers)
    stored = [
        (name, listed)
        for name in _legacy_list(lists, root, "layer_names")
        if (listed := _legacy_list(lists, f"{root}{name}", "weight_names"))
    ]
    renamed = {
        name: known.get(_MODEL_NAME.sub("", name), groups[k][0] if k < len(groups) else name)
        for k, (name, _) in enumerate(stored)
    }
    _check_distinct(renamed)
    placed = {}
    for name, listed in stored:
        places = by_group.get(renamed[name], [])
        for index, weight in enumerate(listed):
            path = f"{root}{name}/{weight}"
            if path not in weights:
                raise WeightsError(f"lists the weight {path}, but doesn't hold it")
            placed[places[index] if index < len(places) else path] = weights[path]
    return placed


def _variable_places(layer: KerasLayer) -> list[str]:
    return [f"layers/{layer.h5}/vars/{index}" for index in range(len(VARIABLES[layer.kind]))]


def _legacy_list(lists: Lists, group: str, attribute: str) -> list[str]:
    """Returns a list of names; long ones are cut into attributes with numbers at their ends."""
    found = lists.get(group.rstrip("/"), {})
    if attribute in found:
        return found[attribute]
    numbered = (f"{attribute}{index}" for index in itertools.count())
    pieces = itertools.takewhile(lambda piece: piece in found, numbered)
    return [name for piece in pieces for name in found[piece]]


def _known_names(layers: Iterable[KerasLayer]) -> dict[str, str]:
    """Returns the places of the backbone's layers by their names in keras.applications."""
    return {
        layer.path[1]: layer.h5
        for layer in layers
        if layer.path[0] == "backbone" and "/" not in layer.h5
    }


def _check_distinct(renamed: dict[str, str]) -> None:
    claims = collections.Counter(renamed.values())
    if twice := sorted(place for place, count in claims.items() if count > 1):
        raise WeightsError(
            f"names its layers as another architecture does: two claim each of {', '.join(twice)}"
        )
