"""One source to any number of targets, and all the way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.conversion import convert, default_target
from convert.manifest import read_manifest
from convert.readers import read_checkpoint
from convert.standin import write_standin
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import architecture, classifier
from tests.conftest import run_python
from tests.seeded import save_state, seeded_state

pytestmark = pytest.mark.usefixtures("small")


def states_equal(one: Path, other: Path) -> None:
    import torch

    a, b = torch.load(one, weights_only=True), torch.load(other, weights_only=True)
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert a[name].numpy().tobytes() == b[name].numpy().tobytes(), name


@pytest.mark.parametrize("through", [".h5", ".keras", ".weights.h5", ".safetensors"])
@pytest.mark.parametrize(
    ("network", "legacy", "steps", "torch_head"),
    [("resnet50", True, None, "conv"), ("senet50", False, 1234, "linear")],
)
def test_there_and_back_every_tensor_is_the_same(
    network: str, legacy: bool, steps: int | None, torch_head: str, through: str, tmp_path: Path
) -> None:
    start = save_state(
        seeded_state(network, steps=steps, torch_head=torch_head), tmp_path / "a.pth", legacy=legacy
    )  # fmt: skip
    convert(start, [tmp_path / f"b{through}"])
    convert(tmp_path / f"b{through}", [tmp_path / "c.pth"])
    states_equal(start, tmp_path / "c.pth")
    provenance = read_checkpoint(tmp_path / "c.pth").provenance
    assert provenance.origin.name == "a.pth" and provenance.origin.format.startswith("torch")


def test_counters_that_differ_come_back_one_by_one(tmp_path: Path) -> None:
    state = seeded_state("resnet50", steps=5)
    state["conv2_1_3x3_bn.num_batches_tracked"] += 1
    start = save_state(state, tmp_path / "a.pth")
    convert(start, [tmp_path / "b.h5"])
    convert(tmp_path / "b.h5", [tmp_path / "c.pth"])
    states_equal(start, tmp_path / "c.pth")


@pytest.mark.slow
def test_a_network_fine_tuned_in_keras_returns_to_pytorch(tmp_path: Path, network: str, standin_h5: Path) -> None:
    """Load, train a step, save with Keras, convert: PyTorch computes what Keras computes."""
    import keras
    import torch

    from ferplus_keras.networks.torch_module import ReferenceNetwork
    from verify.images import natural_inputs

    model = keras.models.load_model(standin_h5, compile=False)
    for layer in model.layers[:-40]:
        layer.trainable = False
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    images = natural_inputs(2, seed=5)
    before = model.get_layer("classifier").get_weights()[0].copy()
    model.fit(images, np.array([1, 3]), epochs=1, verbose=0)
    assert not np.array_equal(before, model.get_layer("classifier").get_weights()[0])
    for name in ("tuned-standin.keras", "tuned-standin.h5"):
        model.save(tmp_path / name)
        convert(tmp_path / name, [tmp_path / "tuned-standin.pth"])
        module = ReferenceNetwork(architecture(network))
        module.load_state_dict(torch.load(tmp_path / "tuned-standin.pth", weights_only=True))
        with torch.no_grad():
            logits = module.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        np.testing.assert_allclose(
            torch.softmax(logits, 1).numpy(), model.predict(images, verbose=0), atol=1e-4, err_msg=name
        )


def test_several_targets_are_written_from_one_reading(seeded_pth: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    targets = [tmp_path / "x.h5", tmp_path / "x.safetensors"]
    result = convert(seeded_pth, targets, progress=lines.append)
    assert [each.path for each in result.written] == targets and all(path.exists() for path in targets)
    assert sum(line.startswith("reading") for line in lines) == 1 and len(lines) == 3


def test_targets_are_checked_before_the_first_is_written(seeded_pth: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="preprocessing goes inside a model"):
        convert(seeded_pth, [tmp_path / "a.h5", tmp_path / "b.safetensors"], pixels=True)
    with pytest.raises(BadInputError, match="No target"):
        convert(seeded_pth, [])
    assert not list(tmp_path.iterdir())


def test_one_target_need_not_be_a_list(seeded_pth: Path, tmp_path: Path) -> None:
    made = convert(seeded_pth, tmp_path / "a.h5")
    assert [each.path for each in made.written] == [tmp_path / "a.h5"]
    assert repr(made) == f"<Conversion {seeded_pth.name} to a.h5: {made.provenance.network}>"


def test_an_option_that_it_does_not_take_is_not_passed_over(seeded_pth: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"convert takes no option fold: it takes .*folded"):
        convert(seeded_pth, [tmp_path / "a.h5"], fold=True)  # type: ignore[call-arg]
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.slow
def test_logits_follow_the_source_when_it_is_a_keras_model(seeded_pth: Path, tmp_path: Path) -> None:
    convert(seeded_pth, [tmp_path / "a.h5"], logits=True)
    convert(tmp_path / "a.h5", [tmp_path / "b.keras"])
    assert read_checkpoint(tmp_path / "b.keras").provenance.output == "logits"
    convert(seeded_pth, [tmp_path / "c.h5"])
    convert(tmp_path / "c.h5", [tmp_path / "d.keras"])
    assert read_checkpoint(tmp_path / "d.keras").provenance.output == "probabilities"


def test_dropout_travels_with_the_graph(seeded_pth: Path, tmp_path: Path) -> None:
    convert(seeded_pth, [tmp_path / "a.h5"], dropout=0.5)
    assert read_checkpoint(tmp_path / "a.h5").architecture == architecture("resnet50", dropout=0.5)
    convert(tmp_path / "a.h5", [tmp_path / "b.h5"], dropout=0.0)
    assert read_checkpoint(tmp_path / "b.h5").architecture == architecture("resnet50")


def test_the_head_can_be_left_out(seeded_pth: Path, tmp_path: Path) -> None:
    convert(seeded_pth, [tmp_path / "a.h5", tmp_path / "a.pth"], top=False)
    for name in ("a.h5", "a.pth"):
        again = read_checkpoint(tmp_path / name)
        assert again.provenance.head == "none" and "classifier" not in again.arrays
        assert again.provenance.output == ("features")


def test_other_heads_are_recognised(tmp_path: Path) -> None:
    path = save_state(seeded_state("senet50", classifier(3)), tmp_path / "a.pth", legacy=True)
    checkpoint = read_checkpoint(path)
    assert checkpoint.architecture == architecture("senet50", classifier(3)) and checkpoint.provenance.labels is None


def test_the_source_is_never_the_target(seeded_pth: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="both source and target"):
        convert(seeded_pth, [seeded_pth])
    with pytest.raises(BadInputError, match="--channels is for ONNX"):
        convert(seeded_pth, [tmp_path / "x.h5"], channels_last=True)
    with pytest.raises(BadInputError, match="--output is for files with a graph"):
        convert(seeded_pth, [tmp_path / "x.pth", tmp_path / "x.safetensors"], logits=True)
    with pytest.raises(BadInputError, match="same name"):
        convert(seeded_pth, [tmp_path / "x.h5", tmp_path / "." / "x.h5"])
    with pytest.raises(BadInputError, match="not a known format"):
        convert(seeded_pth, [tmp_path / "good.h5", tmp_path / "x.exe"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "format", "target"),
    [
        ("a/resnet50.pth", "h5", "a/resnet50.h5"), ("a/x.weights.h5", "keras", "a/x.keras"), ("x.pt", "h5", "x.h5"),
        ("x.y.safetensors", "pth", "x.y.pth"), ("noext", "h5", "noext.h5"), ("x.h5", "weights.h5", "x.weights.h5"),
    ],
)  # fmt: skip
def test_a_target_without_a_name_goes_beside_its_source(source: str, format: str, target: str) -> None:
    assert default_target(source, format) == Path(target)


@pytest.mark.slow
@pytest.mark.usefixtures("full_size")
def test_a_conversion_needs_at_most_twice_the_checkpoint_in_memory(tmp_path: Path) -> None:
    """The source stays mapped; neither writing the .h5 nor reading it back keeps a second copy."""
    source = tmp_path / "resnet50-standin.pth"
    write_standin(read_manifest()["resnet50_ferplus"], source)
    code = """
import sys
from convert.conversion import convert
convert(sys.argv[1], [sys.argv[2]])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    peak = 1024 * int(run_python(code, source, tmp_path / "out-standin.h5"))
    assert peak <= 2.0 * source.stat().st_size
