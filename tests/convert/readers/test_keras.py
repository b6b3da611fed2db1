"""Keras files: ours, Keras's own, and those that point elsewhere, claim too much, or are damaged."""

from __future__ import annotations

import json
import math
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from convert.readers import read_checkpoint, read_named
from convert.writers import write
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from tests.seeded import seeded_arrays, seeded_checkpoint

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network in each of the three Keras formats."""
    folder = tmp_path_factory.mktemp("keras")
    for suffix in (".h5", ".weights.h5", ".keras"):
        write(seeded_checkpoint("resnet50"), folder / f"x{suffix}")
    return folder


def holds_the_seeded_numbers(path: Path) -> None:
    found = read_checkpoint(path).arrays
    for layer, roles in seeded_arrays("resnet50").items():
        for role, array in roles.items():
            np.testing.assert_array_equal(found[layer][role], array, err_msg=f"{layer}/{role}")


def saved_by_keras(folder: Path, target: Path) -> Path:
    """The network as Keras 3 itself saves it, whole or weights alone."""
    import ferplus_keras

    model = ferplus_keras.ResNet50(weights=folder / "x.h5")
    model.save_weights(target) if target.name.endswith(".weights.h5") else model.save(target)
    return target


@pytest.mark.parametrize("suffix", [".h5", ".keras", ".weights.h5"])
def test_what_keras_saves_is_read(suffix: str, folder: Path, tmp_path: Path) -> None:
    holds_the_seeded_numbers(saved_by_keras(folder, tmp_path / f"k{suffix}"))


def test_weights_alone_say_nothing_of_their_graph(folder: Path, tmp_path: Path) -> None:
    path = saved_by_keras(folder, tmp_path / "k.weights.h5")
    assert any("weights without a graph" in note for note in read_checkpoint(path).provenance.notes)
    assert not any("graph" in note for note in read_checkpoint(folder / "x.weights.h5").provenance.notes)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_graph_for_images_of_another_size_keeps_it(suffix: str, folder: Path, tmp_path: Path) -> None:
    import ferplus_keras

    model = ferplus_keras.ResNet50(weights=None, input_shape=(64, 64, 3))
    model.save(tmp_path / f"x{suffix}")
    found = read_checkpoint(tmp_path / f"x{suffix}").provenance
    assert found.side == 64 and any("64 x 64" in note for note in found.notes)
    assert (
        read_checkpoint(write(read_checkpoint(tmp_path / f"x{suffix}"), tmp_path / "y.h5").path).provenance.side == 64
    )


@pytest.mark.parametrize("suffix", [".h5", ".keras", ".weights.h5"])
def test_bfloat16_is_read_exactly(suffix: str, tmp_path: Path) -> None:
    """h5py has no such type: Keras stores two opaque bytes a number."""
    import keras

    layers = [keras.layers.Dense(3, bias_initializer="normal"), keras.layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((4,)), *layers])
    half = keras.Sequential.from_config(
        json.loads(json.dumps(model.get_config()).replace('"name": "float32"', '"name": "bfloat16"'))
    )
    half.set_weights(model.get_weights())
    assert {str(each.dtype) for each in half.weights} == {"bfloat16"}
    path = tmp_path / f"x{suffix}"
    half.save_weights(path) if suffix == ".weights.h5" else half.save(path)
    found = read_named(MappedFile(path))
    assert set(found.dtypes.values()) == {"bfloat16"}
    wanted = [np.asarray(each, np.float32) for each in half.weights]
    assert {ours.dtype for ours in found.arrays.values()} == {np.dtype(np.float32)}
    assert sorted(ours.tobytes() for ours in found.arrays.values()) == sorted(array.tobytes() for array in wanted)


def test_weights_without_layer_names_are_read_by_their_order(folder: Path, tmp_path: Path) -> None:
    """Keras before 3.6 numbered its layers and did not name them."""
    path = saved_by_keras(folder, tmp_path / "old.weights.h5")
    with h5py.File(path, "r+") as file:
        file.visititems(lambda _name, item: item.attrs.pop("name", None) and None)
    holds_the_seeded_numbers(path)


def test_compressed_and_half_precision_arrays_are_read(folder: Path, tmp_path: Path) -> None:
    path = shutil.copy(folder / "x.h5", tmp_path / "x.h5")
    with h5py.File(path, "r+") as file:
        group = file["model_weights/conv2_1_3x3/conv2_1_3x3"]
        values = group["kernel:0"][()]
        del group["kernel:0"]
        group.create_dataset("kernel:0", data=values, compression="gzip", shuffle=True)
        group = file["model_weights/classifier/classifier"]
        half = group["bias:0"][()].astype(np.float16)
        del group["bias:0"]
        group.create_dataset("bias:0", data=half)
    found = read_checkpoint(path)
    np.testing.assert_array_equal(found.arrays["conv2_1_3x3"]["kernel"], values)
    np.testing.assert_array_equal(found.arrays["classifier"]["bias"], half.astype(np.float32))
    assert any("float16" in note for note in found.provenance.notes)


KERNEL = "model_weights/conv2_1_3x3/conv2_1_3x3"
SHAPE = (3, 3, 4, 4)


def external_link(file: h5py.File) -> None:
    del file[KERNEL]["kernel:0"]
    file[KERNEL]["kernel:0"] = h5py.ExternalLink("/etc/passwd", "/x")


def soft_link(file: h5py.File) -> None:
    del file[KERNEL]["kernel:0"]
    file[KERNEL]["kernel:0"] = h5py.SoftLink("/model_weights/conv2_2_3x3/conv2_2_3x3/kernel:0")


def root_link(file: h5py.File) -> None:
    del file["model_weights"]
    file["model_weights"] = h5py.ExternalLink("elsewhere.h5", "/model_weights")


def external_dataset(file: h5py.File) -> None:
    del file[KERNEL]["kernel:0"]
    file[KERNEL].create_dataset("kernel:0", SHAPE, "f4", external=[("/etc/passwd", 0, 4 * math.prod(SHAPE))])


def virtual_dataset(file: h5py.File) -> None:
    del file[KERNEL]["kernel:0"]
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[...] = h5py.VirtualSource("/etc/other.h5", "x", SHAPE)
    file[KERNEL].create_virtual_dataset("kernel:0", layout)


def shape_bomb(file: h5py.File) -> None:
    del file[KERNEL]["kernel:0"]
    file[KERNEL].create_dataset("kernel:0", (1 << 20, 1 << 20), "f4", chunks=(64, 64))


def chunk_bomb(file: h5py.File) -> None:
    """A small array that may grow, in one piece of 75 MB: reading any of it would unpack all of that."""
    del file[KERNEL]["kernel:0"]
    data = file[KERNEL].create_dataset(
        "kernel:0", SHAPE, "f4", chunks=(3, 3, 4, 1 << 19), maxshape=(3, 3, 4, None), compression=9
    )
    data.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(3 * 3 * 4 * (1 << 19) * 4)))


def announced_and_absent(file: h5py.File) -> None:
    del file[KERNEL]["kernel:0"]


def a_loop(file: h5py.File) -> None:
    file["model_weights/conv2_1_3x3/again"] = file["model_weights"]


def text_for_numbers(file: h5py.File) -> None:
    del file[KERNEL]["kernel:0"]
    file[KERNEL].create_dataset("kernel:0", data=np.array([b"abc"]))


def broken_config(file: h5py.File) -> None:
    file.attrs["model_config"] = b"{not json"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (external_link, "link"), (soft_link, "link"), (root_link, "link"), (external_dataset, "another file"),
        (virtual_dataset, "another file"), (shape_bomb, "claims the shape"), (chunk_bomb, "chunks of"),
        (announced_and_absent, "not there"),
        (a_loop, "loop"), (text_for_numbers, "not there|no numbers"), (broken_config, "JSON"),
    ],
)  # fmt: skip
def test_files_that_point_elsewhere_or_claim_too_much_are_refused(
    damage: Callable[[h5py.File], None], told: str, folder: Path, tmp_path: Path
) -> None:
    path = shutil.copy(folder / "x.h5", tmp_path / "x.h5")
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(BadInputError, match=told):
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras"])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_file_cut_short_is_refused(suffix: str, share: float, folder: Path, tmp_path: Path) -> None:
    whole = (folder / f"x{suffix}").read_bytes()
    (tmp_path / f"x{suffix}").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BadInputError):
        read_checkpoint(tmp_path / f"x{suffix}")


def test_a_keras_archive_with_a_bomb_is_refused(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps({"config": {"layers": []}}))
        archive.writestr("model.weights.h5", bytes(1 << 28))
    with pytest.raises(BadInputError, match="compressed"):
        read_checkpoint(tmp_path / "x.keras")


def test_an_hdf5_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["measurements"] = np.zeros(3)
    with pytest.raises(BadInputError, match="measurements"):
        read_named(MappedFile(tmp_path / "x.h5"))
