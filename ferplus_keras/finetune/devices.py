"""What the backend's device can do, and how a run is made repeatable on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from ferplus_keras.errors import BadInputError
from ferplus_keras.finetune.settings import TrainingSettings

#: NVIDIA's GPUs compute in bfloat16 from this compute capability on (Ampere).
BFLOAT16_SINCE = (8, 0)


def gpu_capability() -> tuple[int, int] | None:
    """The compute capability of the first GPU that the backend sees; None without one; (0, 0) where it says nothing."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        if not (found := tf.config.list_physical_devices("GPU")):
            return None
        capability = tf.config.experimental.get_device_details(found[0]).get("compute_capability")
        return tuple(capability) if capability else (0, 0)
    if backend == "jax":
        import jax

        gpus = [device for device in jax.devices() if device.platform == "gpu"]
        capability = str(getattr(gpus[0], "compute_capability", "")) if gpus else ""
        parts = [int(part) for part in capability.split(".") if part.isdigit()]
        return None if not gpus else (parts[0], parts[1]) if len(parts) == 2 else (0, 0)
    import torch

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def precision_of(settings: TrainingSettings, capability: tuple[int, int] | None) -> str:
    """The Keras dtype policy: as the recipe says, or the fastest that the device has."""
    if settings.precision != "auto":
        return settings.precision
    if capability is None:
        return "mixed_bfloat16" if cpu_has_bfloat16() else "float32"
    return "mixed_bfloat16" if capability >= BFLOAT16_SINCE else "mixed_float16"


def cpu_has_bfloat16(flags: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX512-BF16 or AMX): training takes half of the time there.

    Where the system does not say (not Linux), the answer is no.
    """
    try:
        with flags.open() as lines:
            found = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(found.split())


def make_repeatable(settings: TrainingSettings, capability: tuple[int, int] | None) -> bool:
    """Seed everything, and ask the backend for the same bits each time where the recipe does. True where it was."""
    keras.utils.set_random_seed(settings.seed)
    wanted = settings.deterministic == "yes" or (settings.deterministic == "auto" and capability is None)
    if not wanted:
        return False
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif backend == "torch":
        import torch

        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return True


def jit_compile(capability: tuple[int, int] | None) -> Any:
    """Keras's choice, but for TensorFlow on a CPU: XLA takes minutes there to compile what oneDNN runs faster."""
    return False if capability is None and keras.backend.backend() == "tensorflow" else "auto"


@contextmanager
def out_of_memory(batch: int) -> Iterator[None]:
    """What each backend raises when the device is full, as one sentence. Raises :class:`BadInputError`."""
    try:
        yield
    except Exception as error:
        text = f"{type(error).__name__} {error}"[:2000]
        if not any(
            sign in text for sign in ("ResourceExhausted", "RESOURCE_EXHAUSTED", "OutOfMemory", "out of memory")
        ):
            raise
        raise BadInputError(
            f"A batch of {batch} images does not fit into the device's memory. Halve it and add up two for a step: "
            f"--set batch={max(1, batch // 2)} --set accumulate=2."
        ) from None
