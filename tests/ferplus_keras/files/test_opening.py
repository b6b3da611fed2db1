"""Only a regular file is opened, and nothing is waited for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convert.inspection import inspect
from convert.readers import read_checkpoint
from ferplus_keras.engines.opening import open_engine
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.files.keras_files import open_keras_file
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.opening import open_regular
from tests.special_files import a_device, a_link_to_itself, a_link_to_nothing, a_pipe, a_socket
from verify.predictors import open_predictor


def keras(path: Path) -> None:
    with open_keras_file(path):
        pass


DOORS: list[Callable[[Path], Any]] = [
    open_regular, MappedFile, sha256_of, keras, read_checkpoint, inspect, open_engine, open_predictor,
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", [a_pipe, a_socket, a_device, a_link_to_itself, a_link_to_nothing, Path.mkdir])
def test_what_is_no_regular_file_is_refused_at_once(
    kind: Callable[[Path], None], door: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = tmp_path / "x.onnx"
    kind(path)
    with pytest.raises(BadInputError, match=r"x\.onnx"):
        door(path)


@pytest.mark.parametrize("name", ["n" * 300, "\0", "a/" * 3000])
def test_a_name_that_cannot_be_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"cannot be read|not a valid file name"):
        open_regular(tmp_path / name)


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    (tmp_path / "link").symlink_to("x")
    with open_regular(tmp_path / "link") as stream:
        assert stream.read() == b"content"
