"""The bare floor of a conversion: zip archive -> numpy -> HDF5 with no check at all.

It knows nothing but the order of the storages in one of our own seeded checkpoints, copies them, transposes the
kernels, and writes the datasets that the real converter writes. `benchmarks/convert_speed.py` runs it as a process of
its own, for the ratio in the README.

    python benchmarks/floor.py SOURCE.pth TARGET.h5
"""

import mmap
import struct
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np

from ferplus_keras.networks.architecture import architecture
from ferplus_keras.networks.keras_plan import keras_plan


def main(source: str, target: str) -> None:
    network = architecture("senet50" if "senet50" in source else "resnet50")
    archive = zipfile.ZipFile(source)
    with Path(source).open("rb") as stream:
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    spans = {}
    for info in archive.infolist():
        if "/data/" in info.filename:
            name_length, extra_length = struct.unpack("<HH", data[info.header_offset + 26 : info.header_offset + 30])
            spans[int(info.filename.rsplit("/", 1)[1])] = info.header_offset + 30 + name_length + extra_length
    arrays, index = {}, 0
    for layer, roles in network.parameters.items():
        for role, shape in roles.items():
            stored = tuple(shape[axis] for axis in (3, 2, 0, 1)) if len(shape) == 4 else shape[::-1]
            array = np.ndarray(stored, "<f4", buffer=data, offset=spans[index])
            arrays[layer, role] = array.transpose(2, 3, 1, 0) if len(shape) == 4 else array.T
            index += 1
        if "gamma" in roles:
            index += 1  # num_batches_tracked
    with h5py.File(target, "w") as file:
        for layer in keras_plan(network):
            group = file.create_group(f"model_weights/{layer.name}")
            for role in layer.weights:
                group.create_dataset(f"{layer.name}/{role}:0", data=np.ascontiguousarray(arrays[layer.name, role]))


if __name__ == "__main__":
    main(*sys.argv[1:])
