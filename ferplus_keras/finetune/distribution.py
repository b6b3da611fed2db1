"""More than one device, or more than one machine, through what Keras has: one word says which.

``mirrored`` is TensorFlow's ``MirroredStrategy``: all GPUs of one machine. ``data`` is ``keras.distribution`` on JAX:
all devices of one machine, or of several. Each device takes its part of every batch, gradients are averaged, and the
weights are the same everywhere after every step. TensorFlow's ``MultiWorkerMirroredStrategy`` is not offered, because
Keras 3's ``fit`` does not run under it (keras-team/keras issue 20585, open; seen with Keras 3.15.1).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ferplus_keras.errors import BadInputError, first_line

#: What a user can write, for help texts.
SPECS = "mirrored[:DEVICES], data[:DEVICES] or data:HOST:PORT:PROCESS/PROCESSES"

_BACKENDS = {"mirrored": "tensorflow", "data": "jax"}
_SPEC = re.compile(
    r"(?P<kind>mirrored|data)(:(?P<devices>[1-9]\d*)|:(?P<address>.+:\d+):(?P<process>\d+)/(?P<processes>[1-9]\d*))?"
)


@dataclass(frozen=True)
class Spec:
    """``--distribute``, taken apart. ``devices`` None: all there are; ``address``: where process 0 listens."""

    kind: str
    devices: int | None = None
    address: str | None = None
    process: int = 0
    processes: int = 1


@dataclass(frozen=True)
class World:
    """What a training loop must know of the others: ``devices`` over all processes, and which process this is.

    A :class:`~ferplus_keras.finetune.feeding.Feed` takes :attr:`share`.
    """

    devices: int = 1
    process: int = 0
    processes: int = 1
    kind: str = ""

    @property
    def share(self) -> tuple[int, int]:
        """Which part of each batch this process feeds."""
        return self.process, self.processes

    def check_batch(self, batch: int) -> None:
        """Raises :class:`BadInputError` when a batch cannot be cut into equal parts."""
        if batch % self.devices:
            raise BadInputError(
                f"A batch of {batch} cannot be shared by {self.devices} devices: choose a multiple of {self.devices}."
            )


_world = World()


def parse(spec: str | None) -> Spec | None:
    """Raises :class:`BadInputError` when ``spec`` is none of :data:`SPECS`. None and "" distribute nothing."""
    if not spec:
        return None
    found = _SPEC.fullmatch(spec)
    if found is None or (found["kind"] == "mirrored" and found["address"]):
        raise BadInputError(f'--distribute takes {SPECS}, not "{spec}".')
    made = Spec(
        found["kind"],
        int(found["devices"]) if found["devices"] else None,
        found["address"],
        int(found["process"] or 0),
        int(found["processes"] or 1),
    )
    if made.process >= made.processes:
        raise BadInputError(f"--distribute {spec}: processes are counted from 0, so the last is {made.processes - 1}.")
    return made


@contextmanager
def scope(spec: str | None) -> Iterator[World]:
    """Around building, compiling and fitting a model: its variables are placed, and its batches shared, as ``spec``
    says.

    To be entered before the backend has computed anything: which devices there are is settled with the first sum.

    Raises:
        BadInputError: another backend is running, or there are not as many devices.
    """
    global _world
    wanted = parse(spec)
    if wanted is None:
        yield World()
        return
    import keras

    backend, needed = keras.backend.backend(), _BACKENDS[wanted.kind]
    if backend != needed:
        raise BadInputError(
            f"--distribute {spec} works on the {needed} backend, and {backend} is running: set KERAS_BACKEND={needed}."
        )
    inside, world = (_mirrored if wanted.kind == "mirrored" else _data_parallel)(wanted)
    before, _world = _world, world
    try:
        with inside:
            yield world
    finally:
        _world = before


def logits(model: Any, images: np.ndarray, batch: int) -> np.ndarray:
    """What ``model`` says of ``images`` (n x ...), in order; in every process the same, and each by itself.

    ``model.predict`` wants batches that can be shared, and gives each process its own part of the answer; evaluation
    needs all of it, from whatever number of images.
    """
    if _world.kind != "data":
        from ferplus_keras.finetune.feeding import InOrder, for_keras

        found: np.ndarray = model.predict(for_keras(InOrder(images, batch)), verbose=0)
        return found
    import jax

    def local(variables: list[Any]) -> list[Any]:
        return [jax.device_put(np.asarray(variable.value), jax.local_devices()[0]) for variable in variables]

    trained, others = local(model.trainable_variables), local(model.non_trainable_variables)

    @jax.jit
    def run(trained: Any, others: Any, part: Any) -> Any:
        return model.stateless_call(trained, others, part, training=False)[0]

    parts = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        missing = batch - len(part) if start else 0  # one shape, compiled once
        padded = np.concatenate([part, np.repeat(part[:1], missing, axis=0)])
        parts.append(np.asarray(run(trained, others, padded))[: len(part)])
    return np.concatenate(parts)


def _mirrored(wanted: Spec) -> tuple[Any, World]:
    import tensorflow as tf

    graphics, count = tf.config.list_physical_devices("GPU"), wanted.devices
    if graphics:
        count = _enough(len(graphics), count)
        names = [f"GPU:{index}" for index in range(count)]
    else:  # cores cut into devices: no faster, and a way to try it
        count = count or 1
        processor = tf.config.list_physical_devices("CPU")[0]
        _before_anything_runs(
            lambda: tf.config.set_logical_device_configuration(
                processor, [tf.config.LogicalDeviceConfiguration()] * count
            )
        )
        names = [f"CPU:{index}" for index in range(count)]
    return tf.distribute.MirroredStrategy(names).scope(), World(count, kind="mirrored")


def _data_parallel(wanted: Spec) -> tuple[Any, World]:
    import jax
    import keras

    if wanted.address is not None:
        # GPUs have NCCL without being asked.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")  # type: ignore[no-untyped-call]
        _before_anything_runs(lambda: keras.distribution.initialize(wanted.address, wanted.processes, wanted.process))
    elif wanted.devices is not None and not _graphics():
        devices = wanted.devices
        _before_anything_runs(lambda: jax.config.update("jax_num_cpu_devices", devices))  # type: ignore[no-untyped-call]
    names = keras.distribution.list_devices()
    names = names[: _enough(len(names), wanted.devices)]
    # The Feed hands out each process's own part: nothing is left to shard.
    inside = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False).scope()
    return inside, World(len(names), wanted.process, wanted.processes, "data")


def _graphics() -> bool:
    """Whether JAX would find an accelerator, asked without starting it: its number of processors is still open."""
    import importlib.util

    return any(
        importlib.util.find_spec(name) for name in ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin")
    )


def _enough(there: int, wanted: int | None) -> int:
    if wanted is not None and wanted > there:
        raise BadInputError(f"--distribute asks for {wanted} devices and there are {there}: ask for that many or none.")
    return wanted or there


def _before_anything_runs(configure: Callable[[], Any]) -> None:
    try:
        configure()
    except RuntimeError as error:
        raise RuntimeError(
            f"distribution.scope must be entered before the backend has computed anything ({first_line(error)})"
        ) from error
