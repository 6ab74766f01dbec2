"""Our models give what PyTorch's give with the same weights, which pass through safetensors."""

import collections
import re
import sys
import tempfile
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'mixkd-jax[parity]'")
timm = pytest.importorskip("timm", reason="needs timm: pip install 'mixkd-jax[parity]'")
torchvision = pytest.importorskip("torchvision", reason="needs torchvision, of the extra parity")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="needs safetensors")

import torch_references as references  # noqa: E402
from smooth_images import smooth_images  # noqa: E402

from benchmarks import torch_models  # noqa: E402
from mixkd_jax.models import create_model, heads, pixel_statistics  # noqa: E402
from mixkd_jax.models.network import Network  # noqa: E402
from mixkd_jax.weights import WeightsError, load_backbone, load_weights  # noqa: E402

CLASSES = 10
CIFAR = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
TIMM = {
    "resnet18_torch": "resnet18",
    "resnet50_torch": "resnet50",
    "mobilenet_v2_torch": "mobilenetv2_100",
    "convnext_tiny_torch": "convnext_tiny",
    "convnext_large_torch": "convnext_large",
    "vit_b16_torch": "vit_base_patch16_224",
    "vit_b16_avg_torch": "vit_base_patch16_224",
}
TORCHVISION = {
    "resnet18_torch": "resnet18",
    "resnet50_torch": "resnet50",
    "mobilenet_v2_torch": "mobilenet_v2",
    "convnext_tiny_torch": "convnext_tiny",
    "convnext_large_torch": "convnext_large",
    "vit_b16_torch": "vit_b_16",
}
CIFAR_MODELS = ("resnet8", "resnet20", "resnet8x4", "wrn-16-1", "wrn-16-2")
PAIRS = [(library, name) for library, names in (("timm", TIMM), ("torchvision", TORCHVISION))
         for name in names]  # fmt: skip
SMALL = [pair for pair in PAIRS if pair[1] != "convnext_large_torch"]


def _reference(library, name, size=224, depth=12):
    """Returns that library's own model, and its own mean and deviation of pixels."""
    vit = name.startswith("vit")
    if library == "timm":
        options = {"img_size": size, "depth": depth} if vit else {}
        if name == "vit_b16_avg_torch":
            options["global_pool"] = "avg"
        model = timm.create_model(TIMM[name], num_classes=CLASSES, **options)
        pixels = timm.data.resolve_data_config(model=model)
        return model, (pixels["mean"], pixels["std"])
    name, options = TORCHVISION[name], {"num_classes": CLASSES, "weights": None}
    if vit:  # what `vit_b_16` calls, which takes no number of layers
        model = torchvision.models.vision_transformer._vision_transformer(
            16, depth, 12, 768, 3072, progress=False, image_size=size, **options
        )
    else:
        model = torchvision.models.get_model(name, **options)
    pixels = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    return model, (tuple(pixels.mean), tuple(pixels.std))


def _assert_same(module, statistics, reference, pixels, size):
    """Compares our model with a library's: its weights, its constants, its logits."""
    raw = smooth_images(4, size)
    images = references.to_torch(((raw / 255 - pixels[0]) / pixels[1]).astype("float32"))
    references.randomize(reference, images)
    with torch.no_grad():
        theirs = reference(images).numpy()
    network = Network(module, *statistics)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        safetensors_torch.save_file(reference.state_dict(), path)
        variables = load_weights(path, network.module, (size, size, 3))
    _assert_every_weight_is_used_once(reference, network, variables, raw)
    _assert_constants_are_pytorchs(reference, network, variables, raw)
    ours = np.asarray(jax.jit(network.logits)(variables, raw))
    spread = np.abs(theirs - theirs.mean(0)).max()
    assert spread > 0.01 * np.abs(theirs).max()  # the logits do depend on the image
    assert np.abs(ours - theirs).max() <= 1e-4 * spread


def _assert_every_weight_is_used_once(reference, network, variables, images):
    expected = jax.eval_shape(network.module.init, jax.random.key(0), images)
    assert jax.tree.structure(expected) == jax.tree.structure(variables)
    state = reference.state_dict()
    theirs = [state[name].numpy() for name in state if not name.endswith("batches_tracked")]
    assert _fingerprint(jax.tree.leaves(variables)) == _fingerprint(theirs)


def _fingerprint(arrays):
    """Returns two sums over all values, in any order, whose bits are taken for integers."""
    count, total, squares = 0, 0, 0
    for array in arrays:
        bits = np.ravel(array).view(np.uint32).astype(np.uint64)
        count, total, squares = (
            count + bits.size,
            total + int(bits.sum()),
            squares + int(bits @ bits),
        )
    return count, total, squares % 2**64


def _assert_constants_are_pytorchs(reference, network, variables, images):
    """Too small to show in the logits: epsilons, and the momentum of the statistics."""
    ours = set()

    def record(call, args, kwargs, context):
        module = context.module
        if context.method_name == "__call__" and isinstance(module, nn.BatchNorm | nn.LayerNorm):
            momentum = round(1 - module.momentum, 9) if isinstance(module, nn.BatchNorm) else None
            ours.add((module.path, module.epsilon, momentum))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(network.logits, variables, images)
    norms = (torch.nn.BatchNorm2d, torch.nn.LayerNorm)
    theirs = [(m.eps, getattr(m, "momentum", None)) for m in reference.modules()
              if isinstance(m, norms)]  # fmt: skip
    assert len(theirs) > 6
    assert collections.Counter(constants[1:] for constants in ours) == collections.Counter(theirs)


@pytest.mark.parametrize(("library", "name"), SMALL)
def test_logits_and_weights_equal_those_of(library, name):
    """At 64 pixels; a ViT has 3 of its 12 blocks, which are alike."""
    module = create_model(name, num_classes=CLASSES)
    if name.startswith("vit"):
        module = module.clone(backbone=module.backbone.clone(depth=3))
    statistics = pixel_statistics(name, pipeline=library)
    _assert_same(module, statistics, *_reference(library, name, 64, 3), 64)


@pytest.mark.full
@pytest.mark.parametrize(("library", "name"), PAIRS)
def test_full_models_equal_at_224_pixels(library, name):
    module = create_model(name, num_classes=CLASSES)
    statistics = pixel_statistics(name, pipeline=library)
    _assert_same(module, statistics, *_reference(library, name), 224)


@pytest.mark.parametrize("name", CIFAR_MODELS)
def test_cifar_models_equal_those_of_repdistiller(name):
    module = create_model(name, num_classes=CLASSES)
    _assert_same(module, CIFAR, torch_models.create(name, CLASSES), CIFAR, 32)


@pytest.mark.parametrize(("library", "name"), PAIRS)
def test_every_name_and_shape_is_read_at_224_pixels(library, name, tmp_path, monkeypatch):
    """ConvNeXt-Large too: the file holds shapes alone, and no value of it is read."""
    from mixkd_jax.weights import torch as reader

    with torch.device("meta"):
        reference, _ = _reference(library, name)
    state = reference.state_dict()
    stored = {
        key: reader.Stored(key, tuple(tensor.shape), "F32", True, lambda: np.zeros(()))
        for key, tensor in state.items()
        if not key.endswith("num_batches_tracked")
    }
    model = create_model(name, num_classes=CLASSES)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    tree = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), images))
    shapes = {
        tuple(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    layout = reader._layout(model, stored)
    targets = list(reader._targets(layout, shapes))
    assert {t.place: t.shape for t in targets} == {key: s.shape for key, s in stored.items()}
    assert collections.Counter(path for t in targets for path in t.paths) == collections.Counter(
        list(shapes)
    )


def test_older_names_of_torchvisions_vit(tmp_path):
    """Its files on the web were saved before its perceptron became a sequence of layers."""
    options = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 12}
    reference = torchvision.models.VisionTransformer(32, 16, num_classes=3, **options)
    new = reference.state_dict()
    old = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): weight
        for name, weight in new.items()
    }
    assert set(old) != set(new)
    model = create_model("vit_b16_torch", num_classes=3)
    model = model.clone(backbone=model.backbone.clone(depth=1, width=8, heads=2, mlp_width=12))
    loaded = []
    for names in (old, new):
        safetensors_torch.save_file(names, tmp_path / "a.safetensors")
        loaded.append(load_weights(tmp_path / "a.safetensors", model, (32, 32, 3)))
    jax.tree.map(np.testing.assert_array_equal, *loaded)


def test_the_lines_of_the_message_convert_a_pickle(tmp_path):
    """As mdistiller saves a model, and RepDistiller one that trained on several GPUs."""
    reference = torch_models.create("resnet8", CLASSES)
    model = create_model("resnet8", num_classes=CLASSES)
    wrapped = {f"module.{name}": weight for name, weight in reference.state_dict().items()}
    for saved in (reference.state_dict(), {"model": wrapped, "epoch": 240}):
        path = tmp_path / "teacher.pth"
        torch.save(saved, path)
        with pytest.raises(WeightsError) as caught:
            load_weights(path, model, (32, 32, 3))
        lines = re.findall(r"^  (.*)$", str(caught.value), re.M)
        assert len(lines) == 2 and "weights_only=True" in lines[0]
        exec("\n".join(lines), {"torch": torch, "safetensors": sys.modules["safetensors"]})
        loaded = load_weights(path.with_suffix(".safetensors"), model, (32, 32, 3))
        weight = reference.state_dict()["fc.weight"].numpy().T
        np.testing.assert_array_equal(loaded["params"]["classifier"]["kernel"], weight)


def test_a_backbone_under_the_papers_student_head(tmp_path):
    reference, _ = _reference("timm", "resnet18_torch")
    path = tmp_path / "model.safetensors"
    safetensors_torch.save_file(reference.state_dict(), path)
    model = create_model("resnet18_torch", num_classes=100, head="student")
    assert isinstance(model.head, heads.StudentHead)
    nothing = {"params": {}, "batch_stats": {}}
    loaded = load_backbone(path, model, (64, 64, 3), nothing, host=True)
    assert set(loaded["params"]) == {"backbone"}
    kernel = loaded["params"]["backbone"]["conv1_conv"]["kernel"]
    want = reference.state_dict()["conv1.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, want)
    with pytest.raises(WeightsError, match="choose the model 'resnet18_torch'"):
        load_weights(path, create_model("resnet18", num_classes=CLASSES), (64, 64, 3))
    with pytest.raises(WeightsError, match="its layers are those of the model 'resnet18_torch'"):
        load_weights(path, create_model("resnet50_torch", num_classes=CLASSES), (64, 64, 3))
