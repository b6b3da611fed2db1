"""Folding: the numbers, the table, every format that takes a folded network, and the ways that are closed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convert.checkpoint import Checkpoint
from convert.conversion import convert, default_target
from convert.folding import fold, folded_arrays, normalisation_of
from convert.inspection import as_text, inspect
from convert.readers import read_checkpoint
from ferplus_keras.errors import BadInputError, OutputError
from ferplus_keras.networks.architecture import (
    FERPLUS_HEAD,
    NETWORKS,
    NO_HEAD,
    BatchNorm,
    Conv,
    Dropout,
    architecture,
    embedding,
)
from tests.conftest import typed

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def checkpoint(seeded_pth: Path) -> Checkpoint:
    return read_checkpoint(seeded_pth)


@pytest.fixture(scope="module")
def folded_h5(seeded_pth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folded") / "folded.h5"
    convert(seeded_pth, [path], folded=True)
    return path


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("head", [FERPLUS_HEAD, embedding(128), NO_HEAD])
def test_the_folded_table_is_the_table_without_normalisations(name: str, head: object) -> None:
    table, folded = architecture(name, head), architecture(name, head, folded=True)  # type: ignore[arg-type]
    assert folded.folded and not table.folded
    assert [layer.name for layer in folded.layers] == [
        layer.name for layer in table.layers if not isinstance(layer, BatchNorm)
    ]
    names = {layer.name for layer in folded.layers}
    assert all(source in names for layer in folded.layers for source in layer.inputs)
    assert all(layer.bias for layer in folded.layers if isinstance(layer, Conv))
    assert "folded" in str(folded) and "folded" not in str(table)


def test_a_folded_network_has_no_dropout_and_folding_sees_past_it() -> None:
    with pytest.raises(ValueError, match="dropout does nothing"):
        architecture("resnet50", dropout=0.5, folded=True)
    for name in NETWORKS:
        table = architecture(name, dropout=0.5)
        assert any(isinstance(layer, Dropout) for layer in table.layers)
        assert normalisation_of(table) == normalisation_of(architecture(name))


def test_each_pair_is_one_convolution_in_float64(checkpoint: Checkpoint) -> None:
    """Every pair on random input: written out with PyTorch's own operators, not with our formula."""
    import torch
    from torch.nn import functional

    follows = normalisation_of(checkpoint.architecture)
    assert len(follows) == sum(isinstance(layer, BatchNorm) for layer in checkpoint.architecture.layers)
    generator = np.random.default_rng(0)
    folded = dict(folded_arrays(checkpoint))
    for layer, norm in follows.items():
        conv, batchnorm = checkpoint.arrays[layer], checkpoint.arrays[norm]

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, np.float64))

        x = tensor(generator.normal(size=(1, conv["kernel"].shape[2], 7, 7)))
        before = functional.conv2d(x, tensor(conv["kernel"].transpose(3, 2, 0, 1)), padding=1)
        wanted = functional.batch_norm(
            before, *(tensor(batchnorm[role]) for role in ("moving_mean", "moving_variance", "gamma", "beta")), eps=1e-5
        )  # fmt: skip
        kernel = tensor(folded[layer]["kernel"].transpose(3, 2, 0, 1))
        found = functional.conv2d(x, kernel, tensor(folded[layer]["bias"]), padding=1)
        assert float((wanted - found).abs().max() / wanted.abs().max()) < 1e-13, layer


def test_numbers_are_rounded_once(checkpoint: Checkpoint) -> None:
    exact = dict(folded_arrays(checkpoint))
    for layer, roles in fold(checkpoint).arrays.items():
        for role, array in roles.items():
            assert array.dtype == np.float32 and np.array_equal(array, exact[layer][role].astype(np.float32))


def test_a_convolution_with_a_bias_of_its_own_folds_too(checkpoint: Checkpoint) -> None:
    layer, norm = "conv2_1_3x3", "conv2_1_3x3_bn"
    arrays = dict(checkpoint.arrays)
    bias = np.arange(len(arrays[norm]["gamma"]), dtype=np.float32)
    arrays[layer] = arrays[layer] | {"bias": bias}
    shifted = dict(folded_arrays(replace(checkpoint, arrays=arrays)))[layer]["bias"]
    scale = arrays[norm]["gamma"] / np.sqrt(arrays[norm]["moving_variance"].astype(np.float64) + 1e-5)
    np.testing.assert_allclose(shifted - dict(folded_arrays(checkpoint))[layer]["bias"], bias * scale, rtol=1e-12)


def test_a_folded_checkpoint_folds_to_itself(checkpoint: Checkpoint) -> None:
    once = fold(checkpoint)
    assert fold(once) is once


def test_numbers_too_large_for_float32_are_refused(checkpoint: Checkpoint) -> None:
    arrays = dict(checkpoint.arrays)
    norm = "conv1_7x7_s2_bn"
    gamma, variance = arrays[norm]["gamma"], arrays[norm]["moving_variance"]
    arrays[norm] = arrays[norm] | {"gamma": np.full_like(gamma, 3e38), "moving_variance": np.zeros_like(variance)}
    with pytest.raises(BadInputError, match=r"cannot be folded: .* conv1_7x7_s2 has numbers too large"):
        fold(replace(checkpoint, arrays=arrays))


@pytest.mark.parametrize("suffix", [".h5", ".keras", ".weights.h5", ".pth", ".safetensors", ".onnx"])
def test_every_format_takes_a_folded_network_and_is_read_as_one(suffix: str, folded_h5: Path, tmp_path: Path) -> None:
    """Compared bit for bit by the writer; read again it is folded, with the numbers."""
    path = tmp_path / f"again{suffix}"
    convert(folded_h5, [path], folded=True)
    once, again = read_checkpoint(folded_h5), read_checkpoint(path)
    assert again.architecture.folded and again.provenance.folded and again.architecture == once.architecture
    for layer, roles in once.arrays.items():
        for role, array in roles.items():
            assert np.array_equal(array, again.arrays[layer][role])
    found = inspect(path)
    assert found["folded"] is True and not found["problems"] and "inference only" in as_text(found)


def test_the_way_back_is_closed(folded_h5: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"is folded, .* cannot be recovered. .* --fold"):
        convert(folded_h5, [tmp_path / "x.pth"])
    with pytest.raises(BadInputError, match=r"A .mat file needs the batch normalisations"):
        convert(folded_h5, [tmp_path / "x.mat"], folded=True)
    with pytest.raises(BadInputError, match="leave out --dropout or --fold"):
        convert(folded_h5, [tmp_path / "x.h5"], folded=True, dropout=0.5)
    assert not list(tmp_path.iterdir())


def test_a_model_to_be_trained_does_not_take_a_folded_file(folded_h5: Path) -> None:
    from ferplus_keras import ResNet50

    with pytest.raises(BadInputError, match=r"folded into the convolutions, for inference only.*nothing was loaded"):
        ResNet50(weights=folded_h5)


def test_beside_the_source_it_gets_a_name_of_its_own() -> None:
    assert default_target("a/x.pth", "h5", folded=True) == Path("a/x-folded.h5")
    assert default_target("a/x-folded.h5", "onnx", folded=True) == Path("a/x-folded.onnx")


def test_the_command_line_folds(seeded_pth: Path, tmp_path: Path) -> None:
    run = typed("convert", seeded_pth, tmp_path / "f.h5", "--fold")
    assert run.returncode == 0, run.stderr
    assert "folded" in typed("inspect", tmp_path / "f.h5").stdout
    back = typed("convert", tmp_path / "f.h5", tmp_path / "back.safetensors")
    assert back.returncode == 2 and "be recovered" in back.stderr and not (tmp_path / "back.safetensors").exists()


def test_a_place_where_nothing_can_be_written_is_said(folded_h5: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        convert(folded_h5, [tmp_path / "file" / "x.h5"], folded=True)


def test_a_folded_file_and_its_source_are_the_same_network(folded_h5: Path, seeded_pth: Path) -> None:
    from verify.same import check_same

    assert check_same(folded_h5, seeded_pth).passed
