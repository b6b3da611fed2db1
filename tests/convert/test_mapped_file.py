"""The mapped file: its bytes, its hash, and what it says of a file that is none."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.files.mapped_file import MappedFile
from tests.conftest import run_python


@pytest.mark.parametrize("content", [b"", b"x", os.urandom(3 << 20)], ids=["empty", "a byte", "3 MiB"])
def test_the_hash_is_the_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    file = MappedFile(path)
    file.begin_sha256()
    file.begin_sha256()  # it is on its way already
    assert bytes(file.view) == content and file.size == len(content)
    assert file.sha256() == file.sha256() == sha256_of(path) == hashlib.sha256(content).hexdigest()


def test_what_is_read_again_after_a_release_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(b"ab" * (1 << 20))
    file = MappedFile(path)
    before = bytes(file.view)
    file.release()
    assert bytes(file.view) == before


def test_a_name_that_is_no_text_has_one_for_records(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/x\xff.pth")
    Path(path).write_bytes(b"x")
    assert MappedFile(path).name == "x\N{REPLACEMENT CHARACTER}.pth" and MappedFile(path).sha256()


def test_no_file_and_a_folder_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"There is no file .*missing\.pth"):
        MappedFile(tmp_path / "missing.pth")
    with pytest.raises(BadInputError, match="is a folder"):
        MappedFile(tmp_path)


def test_it_opens_before_anything_heavy_is_imported() -> None:
    run_python(
        "import sys, ferplus_keras.files.mapped_file\n"
        "assert not {'numpy', 'h5py', 'hashlib'} & set(sys.modules), 'it was to begin before them'"
    )
