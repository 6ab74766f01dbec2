"""The model card of an exported model, with the metadata that the Hugging Face Hub reads."""

from __future__ import annotations

import json
from typing import Any

_TITLES = {
    "accuracy": "accuracy",
    "ece": "expected calibration error",
    "nll": "negative log-likelihood",
    "brier": "Brier score",
}
_PAPER = "arXiv:2606.12171"


def write(about: dict[str, Any], name: str, *, has_onnx: bool) -> str:
    """Returns `README.md`.

    Args:
      about: what `config.json` holds.
      name: of the model.
      has_onnx: whether `model.onnx` is beside it.
    """
    parts = [_metadata(about, name), f"# {name}", _what(about), _measured(about), _use(about)]
    if has_onnx:
        parts.append(_use_onnx(about))
    return "\n\n".join([*parts, _limits(about)]) + "\n"


def _metadata(about: dict[str, Any], name: str) -> str:
    """Returns the YAML header; JSON strings are YAML strings."""
    text = json.dumps
    data = about["data"]["name"]
    lines = [
        "---",
        "library_name: jax",
        "pipeline_tag: image-classification",
        "tags:",
        "- image-classification",
        "- knowledge-distillation",
        "- calibration",
        "- jax",
        "- mixkd_jax",
        "- arxiv:2606.12171",
        "model-index:",
        f"- name: {text(name)}",
        "  results:",
        "  - task:",
        "      type: image-classification",
        "    dataset:",
        f"      name: {text(data)}",
        f"      type: {text(data)}",
        "      split: test",
        "    metrics:",
    ]
    for metric, title in _TITLES.items():
        value = (about["metrics"] or {}).get(metric)
        if value is not None:
            lines += [
                f"    - type: {metric}",
                f"      value: {value}",
                f"      name: {text(title)}",
            ]
    return "\n".join([*lines, "---"])


def _what(about: dict[str, Any]) -> str:
    training, images = about["training"], about["images"]
    recipe, architecture = training.get("recipe"), about["architecture"]
    height, width, channels = images["shape"]
    lines = [
        f"`{architecture['model']}`: a classifier of {len(about['class_names'])} classes, for "
        f"images of {height} x {width} pixels and {channels} channel{'s' * (channels > 1)}, "
        f"trained on {about['data']['name']} with mixkd_jax {about['versions']['mixkd-jax']}"
        + (f" (commit {about['git_commit']})" if about["git_commit"] else "")
        + f", as the model `{training['model']}` of its run, seed {training['seed']}."
    ]
    if recipe is None:
        lines.append("It learned from labels alone.")
    elif recipe["teacher_temperature"] is None:
        mixed = "mixed images and labels" if recipe["mixup"] else "labels"
        lines.append(f"It learned from {mixed}, without a teacher.")
    else:
        mixed = "on images mixed by mixup" if recipe["mixup"] else "on images as they are"
        options = ", ".join(f"{key} {value}" for key, value in recipe["options"].items())
        lines.append(
            f"It was distilled from a teacher {mixed} ({_PAPER}), by the loss `{recipe['loss']}` "
            f"with {options}; the teacher's logits were divided by "
            f"{recipe['teacher_temperature']:g}."
        )
        if teacher := training.get("teacher"):
            lines.append(
                f"The teacher so has an accuracy of {teacher['accuracy']:.2%} and an expected "
                f"calibration error of {teacher['ece']:.2%} on the test images."
            )
    if recipe and recipe["mixup"]:
        lines.append(f"Mixup: {', '.join(f'{k} {v}' for k, v in recipe['mixup'].items())}.")
    return "\n".join(lines)


def _measured(about: dict[str, Any]) -> str:
    before, after = about["metrics"] or {}, about["calibrated"] or {}
    if not before:
        return "## Measured\n\nIts run hasn't measured it."
    lines = ["## Measured", "", f"On the {about['data']['test']} test images of its run:", ""]
    heading = (
        "after temperature scaling" if after else "after temperature scaling (no held-out images)"
    )
    lines += [f"| metric | as it is | {heading} |", "|---|---|---|"]
    for metric, title in _TITLES.items():
        scaled = f"{after[metric]:.4f}" if metric in after else "-"
        lines.append(f"| {title} | {before[metric]:.4f} | {scaled} |")
    if after:
        lines += [
            "",
            f"The temperature, {after['temperature']:.4f}, was fitted on "
            f"{about['data']['validation']} images that nothing was learned from.",
        ]
    return "\n".join(lines)


def _use(about: dict[str, Any]) -> str:
    height, width, channels = about["images"]["shape"]
    resize = about["images"]["resize"]
    scaled = "divided by the temperature" if about["calibrated"] else "not divided by a temperature"
    convert = '.convert("RGB")' if channels == 3 else '.convert("RGB").convert("L")'
    return f"""## Use

`config.json` names the classes and how pixels are prepared; `model.safetensors` has the weights.
With mixkd_jax: `mixkd_jax.load_model(FOLDER).predict("photo.jpg")`.

`model.stablehlo` needs JAX, on a CPU, CUDA or TPU, and what JAX reads it with: `pip install jax
flatbuffers`. It takes uint8 images [batch, {height}, {width}, {channels}], prepares them itself,
and returns "logits" and "probabilities" (softmax of the logits, {scaled}).
In the folder of these files, with Pillow to read `photo.jpg`:

```python
import json

import jax
import numpy as np
from PIL import Image, ImageOps

SIZE, RESIZE = ({height}, {width}), ({resize[0]}, {resize[1]})  # height, width


def read(path):
    image = ImageOps.exif_transpose(Image.open(path)){convert}
    scale = max(RESIZE[0] / image.height, RESIZE[1] / image.width)  # until it covers RESIZE
    high = max(RESIZE[0], round(image.height * scale))
    wide = max(RESIZE[1], round(image.width * scale))
    top, left = (high - SIZE[0]) // 2, (wide - SIZE[1]) // 2  # then the middle of it
    x, y = image.width / wide, image.height / high
    right, bottom = min((left + SIZE[1]) * x, image.width), min((top + SIZE[0]) * y, image.height)
    box = (left * x, top * y, right, bottom)
    resized = image.resize(SIZE[::-1], Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized, np.uint8).reshape(*SIZE, {channels})


with open("model.stablehlo", "rb") as file:
    classify = jax.export.deserialize(bytearray(file.read())).call
with open("config.json", encoding="utf-8") as file:
    names = json.load(file)["class_names"]
probabilities = classify(np.stack([read("photo.jpg")]))["probabilities"]
print(names[int(probabilities[0].argmax())], float(probabilities[0].max()))
```"""


def _use_onnx(about: dict[str, Any]) -> str:
    computed = about["architecture"]["dtype"]
    note = "" if computed == "float32" else f" It computes in float32, the others in {computed}."
    return f"""`model.onnx` takes and returns the same, with ONNX Runtime:{note}

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(probabilities,) = session.run(["probabilities"], {{"images": np.stack([read("photo.jpg")])}})
```"""


def _limits(about: dict[str, Any]) -> str:
    noise = about["training"]["data"].get("noise")
    lines = [
        "## Limits",
        "",
        "- It knows its classes alone, and gives an image of anything else to one of them.",
        f"- Accuracy and calibration are of images like those of {about['data']['name']}; on "
        "others both are usually worse, and the temperature doesn't carry over.",
        "- The figures are of one training with one seed.",
    ]
    if noise:
        lines.append(
            f"- It was trained and measured on images with Gaussian noise of {noise:g} of the "
            "pixels' range, which images elsewhere may not have."
        )
    return "\n".join(lines)
