"""Silence for libraries that write to standard error whatever they are asked."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ferplus_keras.packages import naming_missing, no_backend


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Nothing that libraries write to standard error meanwhile is seen; exceptions are."""
    with suppress(Exception):  # closed, full, or none at all: somebody else's to say
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is none to be silenced
        yield
        return
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def import_keras() -> None:
    """Import Keras and what it runs on, unheard: TensorFlow greets on standard error before it can be told not to.

    Raises ``ImportError``, as ``import keras`` does, and :class:`BadInputError` for a backend that it has not.
    """
    if sys.modules.get("keras"):
        return
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of functions that are traced anew
    backend = os.environ["KERAS_BACKEND"]
    with naming_missing("keras", backend), silent_stderr():
        try:
            import keras
        except ValueError:  # and numpy, on which Keras only predicts, is one that it has
            raise no_backend(backend) from None

        if hasattr(keras, "ops"):  # Keras 3: what TensorFlow says when it first computes is said here too
            keras.ops.convert_to_numpy(keras.ops.zeros(()) + 1)
