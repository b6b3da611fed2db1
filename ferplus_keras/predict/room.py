"""One bound on memory for all threads that decode: each image takes its share first, and waits where there is none.

What an image takes is known from its header: its pixels, times what a decoder and the ways to RGB need for one.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from contextlib import suppress
from typing import Any

#: Bytes for all images that are decoded or held at a time. The largest that is read (89,478,485 pixels) takes all.
ROOM = 1 << 30

#: Bytes for a pixel: while it is decoded (its own 4, the decoder's, 3 in RGB), and once it is RGB.
DECODING, HELD = 12, 3

#: Seconds to wait for others to be done. They take one at most; whoever still holds an image then keeps it for longer.
PATIENCE = 30.0


#: From this many bytes on, freed memory is returned to the system first.
LARGE = 64 << 20


class Room:
    """``size`` bytes, shared by threads."""

    def __init__(self, size: int = ROOM) -> None:
        self.size, self.taken = size, 0
        self._changed = threading.Condition(threading.RLock())

    def take(self, pixels: int) -> int:
        """Wait until an image of ``pixels`` can be decoded; returns the bytes that are now taken for it."""
        wanted = min(self.size, DECODING * pixels)
        with self._changed:
            self._changed.wait_for(lambda: self.taken + wanted <= self.size, PATIENCE)
            self.taken += wanted
        if wanted > LARGE:
            _return_what_is_free()
        return wanted

    def give(self, amount: int) -> None:
        with self._changed:
            self.taken -= amount
            self._changed.notify_all()

    def hold(self, image: Any, taken: int) -> None:
        """Of what was ``taken`` keep what ``image``, decoded, needs until it is let go; the rest is free."""
        kept = min(taken, HELD * image.width * image.height)
        self.give(taken - kept)
        weakref.finalize(image, self.give, kept).atexit = False


def _return_what_is_free() -> None:
    """Each thread's allocations are a heap of its own in glibc, which keeps what was let go for that thread alone."""
    with suppress(OSError, AttributeError):  # another library of C
        ctypes.CDLL(None).malloc_trim(0)


#: Of this process.
room = Room()
