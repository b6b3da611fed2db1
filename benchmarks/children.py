"""What the benchmarks run in processes of their own, so that each pays for its own imports and memory only.

python -m benchmarks.children TASK ARGUMENTS...
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import time
import zipfile
from pathlib import Path

import numpy as np

#: Rows of each split in the published label file.
SPLITS = (28_709, 3_589, 3_589)


def standin(network: str, path: str, legacy: str) -> None:
    """Write a stand-in checkpoint."""
    from convert.manifest import read_manifest
    from convert.standin import write_standin

    write_standin(read_manifest()[f"{network}_ferplus"], Path(path), legacy=legacy == "1")


def mat(form: str, source: str, path: str) -> None:
    """Write ``source`` as a MATLAB file of ``form``, as MatConvNet's own tools lay it out."""
    from convert.readers import read_checkpoint
    from tests.mat_files import imported, save_level5, save_level73

    network = imported(read_checkpoint(source).arrays, dropout=0.5)
    if form == "7.3":
        save_level73(Path(path), network)
    else:
        save_level5(Path(path), network, compress=form == "5-compressed")


def floor(source: str, target: str) -> None:
    """The bare floor of a conversion: zip archive -> numpy -> HDF5 with no check at all.

    It knows nothing but the order of the storages in one of our own stand-ins, copies them, transposes the kernels, and
    writes the datasets that the real converter writes.
    """
    import h5py

    from ferplus_keras.networks.architecture import architecture
    from ferplus_keras.networks.keras_plan import keras_plan

    network = architecture("senet50" if "senet50" in source else "resnet50")
    with Path(source).open("rb") as stream:
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    spans = {}
    for info in zipfile.ZipFile(source).infolist():
        if "/data/" in info.filename:
            name_length, extra_length = struct.unpack("<HH", data[info.header_offset + 26 : info.header_offset + 30])
            spans[int(info.filename.rsplit("/", 1)[1])] = info.header_offset + 30 + name_length + extra_length
    arrays, index = {}, 0
    for layer, roles in network.parameters.items():
        for role, shape in roles.items():
            stored = tuple(shape[axis] for axis in (3, 2, 0, 1)) if len(shape) == 4 else shape[::-1]
            array: np.ndarray = np.ndarray(stored, "<f4", buffer=data, offset=spans[index])
            arrays[layer, role] = array.transpose(2, 3, 1, 0) if len(shape) == 4 else array.T
            index += 1
        if "gamma" in roles:
            index += 1  # num_batches_tracked
    with h5py.File(target, "w") as file:
        for each in keras_plan(network):
            group = file.create_group(f"model_weights/{each.name}")
            for role in each.weights:
                group.create_dataset(f"{each.name}/{role}:0", data=np.ascontiguousarray(arrays[each.name, role]))


def parity_floor(model_path: str, source: str, count: str) -> None:
    """The forward passes that a parity check cannot do without: logits in both precisions on both sides."""
    import keras
    import torch

    from convert.readers import read_checkpoint
    from ferplus_keras.networks.natural import natural_inputs
    from verify.keras_trace import retyped
    from verify.references.torch_reference import as_torch, reference_module

    images = natural_inputs(int(count))
    model = keras.models.load_model(model_path, compile=False)
    for dtype in ("float64", "float32"):
        copy = model.__class__.from_config(retyped(model.get_config(), dtype))
        copy.set_weights(model.get_weights())
        module = reference_module(read_checkpoint(source), dtype)
        for image in images.astype(dtype):
            copy(image[None], training=False)
            with torch.no_grad():
                module(as_torch(image[None], dtype))


def kaggle(folder: str) -> None:
    """Write ``fer2013.csv`` and ``fer2013new.csv`` at their full size.

    The images are the real ones where ``FERPLUS_DATA`` has them, noise otherwise: to the parser they are digits. The
    votes are made up, and agree with the emotions, as the reader asks.
    """
    from ferplus_keras.dataset import load_ferplus
    from ferplus_keras.dataset.order import KAGGLE_CLASSES
    from ferplus_keras.dataset.records import VOTE_COLUMNS
    from tests.ferplus_files import Small, write_pair

    n, generator = sum(SPLITS), np.random.default_rng(0)
    emotions = generator.integers(0, len(KAGGLE_CLASSES), n)
    votes = generator.multinomial(4, [0.1] * 10, n)
    votes[np.arange(n), [VOTE_COLUMNS.index(KAGGLE_CLASSES[emotion]) for emotion in emotions]] += 6
    noise = generator.integers(0, 256, (n, 48, 48), dtype=np.uint8)
    images = load_ferplus().images if os.environ.get("FERPLUS_DATA") else noise
    names = [f"fer{number:07}.png" for number in range(n)]
    split = np.repeat(np.arange(3, dtype=np.uint8), SPLITS)
    write_pair(
        Small(np.resize(images, noise.shape), votes.astype(np.uint8), split, names, emotions.tolist()), Path(folder)
    )


def read_data(folder: str) -> None:
    """Read FERPlus; print the seconds that takes by the clock and in the processor, imports left out."""
    wall, busy = time.perf_counter(), time.process_time()
    from ferplus_keras.dataset import load_ferplus

    load_ferplus(folder)
    print(json.dumps([time.perf_counter() - wall, time.process_time() - busy]))


def evaluate(path: str, count: str) -> None:
    """Evaluate a network on ``count`` images of noise; print the seconds spent on the images and in the network."""
    from ferplus_keras.dataset import Dataset
    from ferplus_keras.dataset.protocols import PROTOCOLS
    from verify.accuracy import evaluate
    from verify.predictors import open_predictor

    n = int(count)
    images = np.random.default_rng(0).integers(0, 256, (n, 48, 48), dtype=np.uint8)
    votes = np.zeros((n, 10), np.uint8)
    votes[:, 0] = 10
    dataset = Dataset(images, votes, np.full(n, 2, np.uint8), tuple(map(str, range(n))), "made up", n, "made up")
    predictor = open_predictor(path)
    evaluate(predictor, dataset, PROTOCOLS["albanie"], limit=predictor.batch)  # compiled, caches filled
    found = evaluate(predictor, dataset, PROTOCOLS["albanie"]).splits[0].predictions
    print(json.dumps([found.data_seconds, found.network_seconds]))


TASKS = {each.__name__: each for each in (standin, mat, floor, parity_floor, kaggle, read_data, evaluate)}

if __name__ == "__main__":
    TASKS[sys.argv[1]](*sys.argv[2:])
