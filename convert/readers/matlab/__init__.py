"""MATLAB's two file formats as plain values: :mod:`.level5` (MATLAB 5 to 7) and :mod:`.level73` (HDF5)."""

from __future__ import annotations

from convert.readers.matlab.level5 import read_level5
from convert.readers.matlab.values import Value
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile

#: How MATLAB's 128 bytes before a 7.3 file end: the version, as each byte order has it.
VERSION_73 = (b"\0\2IM", b"\2\0MI")


def read_variables(file: MappedFile) -> tuple[str, dict[str, Value]]:
    """("5" or "7.3", the file's variables by name).

    Raises :class:`BadInputError` when the file is damaged, points outside itself, or claims more than any network has.
    """
    if bytes(file.view[:10]) == b"MATLAB 7.3" or bytes(file.view[124:128]) in VERSION_73:
        from convert.readers.matlab.level73 import read_level73  # h5py costs 0.1 s

        return "7.3", read_level73(file)
    if file.size < 128:
        raise BadInputError(f"{file.path} was cut short inside its header. Copy or download it again.")
    return "5", read_level5(file)
