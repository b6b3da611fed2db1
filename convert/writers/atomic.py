"""Writing a file so that the old one survives whatever happens: see :mod:`ferplus_keras.atomic`."""

from ferplus_keras.atomic import ROOM, UMASK, as_os_error, atomic_path, flush

__all__ = ["ROOM", "UMASK", "as_os_error", "atomic_path", "flush"]
