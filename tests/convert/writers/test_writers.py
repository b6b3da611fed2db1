"""Every format: what is written reads back bit for bit, in the world's own readers too, and damage is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert.checkpoint import Checkpoint
from convert.readers import read_checkpoint, read_named
from convert.targets import FORMATS
from convert.writers import compare, format_of, write
from ferplus_keras.errors import BadInputError, OutputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.networks.architecture import FERPLUS_HEAD, NO_HEAD, Head, classifier, embedding
from tests.conftest import ROOT, run_python
from tests.seeded import seeded_checkpoint, seeded_state

pytestmark = pytest.mark.usefixtures("small")


def same(one: Checkpoint, other: Checkpoint) -> None:
    assert one.architecture == other.architecture
    for layer, roles in one.arrays.items():
        for role, array in roles.items():
            there = other.arrays[layer][role]
            assert there.dtype == array.dtype == np.float32
            assert np.array_equal(array.view(np.uint32), there.view(np.uint32)), f"{layer}/{role}"


@pytest.mark.parametrize("head", [FERPLUS_HEAD, embedding(128), NO_HEAD], ids=str)
@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_a_file_reads_back_bit_for_bit_with_its_provenance(format, head: Head, tmp_path: Path) -> None:
    network = "senet50" if head == FERPLUS_HEAD else "resnet50"
    checkpoint = seeded_checkpoint(network, head, steps=12)
    # Signed zeros and denormals must survive as well.
    checkpoint.arrays["conv1_7x7_s2_bn"]["beta"][:2] = [-0.0, 1e-42]
    written = write(checkpoint, tmp_path / f"x{format.suffix}")
    again = read_checkpoint(written.path)
    same(checkpoint, again)
    assert again.provenance.origin == checkpoint.provenance.source
    assert again.provenance.num_batches_tracked == 12
    assert again.provenance.labels == checkpoint.provenance.labels
    assert written.size == written.path.stat().st_size
    assert again.provenance.source.sha256 == written.sha256


@pytest.mark.slow  # writes every format in a second process
def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the process, the hour and the file's name: a second process writes them a second time."""
    code = (
        "import sys\nfrom convert.writers import write\nfrom tests.seeded import seeded_checkpoint\n"
        "for path in sys.argv[1:]:\n    print(write(seeded_checkpoint('resnet50'), path).sha256)"
    )
    written = [write(seeded_checkpoint("resnet50"), tmp_path / f"x{FORMATS[name].suffix}") for name in FORMATS]
    again = run_python(code, *(tmp_path / f"other{FORMATS[name].suffix}" for name in FORMATS), PYTHONHASHSEED="1")
    assert again.split() == [each.sha256 for each in written]


@pytest.mark.parametrize("path", ["x.txt", "x", "x.tflite", "h5"])
def test_an_unknown_suffix_is_refused(path: str) -> None:
    with pytest.raises(BadInputError, match=r"\.h5, \.keras, \.weights\.h5"):
        format_of(path)


def test_the_longer_suffix_wins() -> None:
    assert format_of("a.weights.h5").name == "weights.h5"
    assert format_of("a.h5").name == format_of("A.H5").name == format_of("a.hdf5").name == "h5"


def test_a_file_with_other_bits_is_discarded(tmp_path: Path) -> None:
    checkpoint = seeded_checkpoint("resnet50")
    path = write(checkpoint, tmp_path / "x.safetensors").path
    with path.open("r+b") as stream:
        stream.seek(-5, 2)
        byte = stream.read(1)
        stream.seek(-5, 2)
        stream.write(bytes([byte[0] ^ 1]))
    file = MappedFile(path)
    with pytest.raises(OutputError, match="other bits"):
        compare(checkpoint, file, read_named(file), path)


def test_a_writer_that_errs_does_not_replace_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convert.writers import keras_h5

    honest = keras_h5.fill

    def careless(path: Path, places: list[tuple[int, np.ndarray]]) -> None:
        honest(path, [(offset, array if number != 100 else -array) for number, (offset, array) in enumerate(places)])

    monkeypatch.setattr(keras_h5, "fill", careless)
    target = tmp_path / "x.h5"
    target.write_bytes(b"old")
    with pytest.raises(OutputError, match="reads back with other bits"):
        write(seeded_checkpoint("resnet50"), target)
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_pytorch_takes_our_pth(tmp_path: Path) -> None:
    import torch

    from ferplus_keras.networks.torch_module import ReferenceNetwork

    checkpoint = seeded_checkpoint("senet50", steps=3)
    path = write(checkpoint, tmp_path / "x.pth").path
    state = torch.load(path, weights_only=True)
    module = ReferenceNetwork(checkpoint.architecture)
    module.load_state_dict(state, strict=True)
    wanted = seeded_state("senet50", steps=3)
    assert list(state) == list(wanted)
    assert all(torch.equal(state[name], wanted[name]) and state[name].dtype == wanted[name].dtype for name in wanted)


def test_pytorch_takes_our_safetensors(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    path = write(seeded_checkpoint("resnet50", torch_head="linear"), tmp_path / "x.safetensors").path
    state, wanted = load_file(path), seeded_state("resnet50", torch_head="linear")
    assert state.keys() == wanted.keys() and state["classifier.weight"].ndim == 2
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


@pytest.mark.slow
def test_keras_takes_its_own_formats(tmp_path: Path) -> None:
    import keras

    import ferplus_keras

    checkpoint = seeded_checkpoint("resnet50", classifier(5))
    whole = keras.models.load_model(write(checkpoint, tmp_path / "x.keras").path)
    graph = ferplus_keras.ResNet50(classes=5)
    graph.load_weights(write(checkpoint, tmp_path / "x.weights.h5").path)
    for model in (whole, graph):
        for layer, roles in checkpoint.arrays.items():
            for array, weight in zip(roles.values(), model.get_layer(layer).get_weights(), strict=True):
                np.testing.assert_array_equal(array, weight)


@pytest.mark.parametrize("suffix", [".h5", ".pth"])
def test_a_standin_may_not_lose_its_name(suffix: str, tmp_path: Path) -> None:
    from dataclasses import replace

    checkpoint = seeded_checkpoint("resnet50")
    checkpoint.provenance = replace(checkpoint.provenance, standin=True)
    with pytest.raises(BadInputError, match=f"x-standin{suffix}"):
        write(checkpoint, tmp_path / f"x{suffix}")
    assert not list(tmp_path.iterdir())
    assert read_checkpoint(write(checkpoint, tmp_path / f"x-standin{suffix}").path).provenance.standin


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_a_backend_that_is_not_there_is_named_beside_those_that_are(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "nonsense")
    monkeypatch.setitem(sys.modules, "ferplus_keras.networks.models", None)
    with pytest.raises(OutputError, match=r"KERAS_BACKEND is nonsense; installed here: .*needs no Keras"):
        write(seeded_checkpoint("resnet50"), tmp_path / f"x{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # imports TensorFlow in a process of its own
def test_a_keras_file_is_written_without_a_word_from_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom convert.writers import write\n"
        "from tests.seeded import seeded_checkpoint\nfrom tests.small import small_networks\n"
        "with small_networks():\n    write(seeded_checkpoint('resnet50'), Path(sys.argv[1]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "x.keras"], cwd=ROOT, capture_output=True, text=True,
        env={name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"},
    )  # fmt: skip
    assert run.returncode == 0 and not run.stderr, run.stderr
