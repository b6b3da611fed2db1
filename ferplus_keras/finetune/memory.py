"""The memory of a training step, estimated from the table of layers."""

from __future__ import annotations

from ferplus_keras.networks import architecture as arch

#: What a step keeps beyond one copy of every layer's output: gradients on their way back, and the copies that
#: convolutions make. Measured on two CPU cores with TensorFlow, as peak memory less the weights'.
OVERHEAD = 1.3

#: What a run takes besides: TensorFlow, the images, evaluation. Runs of ResNet50 at 64, 96 and 128 pixels (batch 64,
#: bfloat16, under a compact teacher) peaked at 2.5, 2.5 and 3.4 GB, 0.9 GB above their weights and steps.
PROCESS_BYTES = 900_000_000


def activation_bytes(table: arch.Architecture, size: int, bytes_per_number: int) -> int:
    """Bytes that one image of ``size`` x ``size`` pixels takes in a training step: every layer's output is kept."""
    side = arch.sides(table, size)
    channels: dict[str, int] = {}
    total = 0
    for layer in table.layers:
        wide = 3 if not layer.inputs else channels[layer.inputs[0]]
        if isinstance(layer, arch.Conv):
            wide = layer.out_channels
        elif isinstance(layer, arch.Linear):
            wide = layer.units
        channels[layer.name] = wide
        total += side[layer.name] ** 2 * wide
    return round(total * bytes_per_number * OVERHEAD)
