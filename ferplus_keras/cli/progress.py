"""How a command that takes long says how far it is: on standard error, overwritten or now and then."""

from __future__ import annotations

import math
import sys
import time

from ferplus_keras.cli import screen


class Progress:
    """Lines on standard error; none when ``quiet``.

    ``between_lines`` and ``between_glances`` are the seconds between two lines that pass, where they do not overwrite
    each other, and where they do; ``at_once`` shows the first without waiting so long.
    """

    between_lines, between_glances, at_once = 10.0, 0.2, False

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet, self.terminal = quiet, sys.stderr.isatty()
        self._last = -math.inf if self.terminal or self.at_once else time.monotonic()

    def line(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet:
            screen.notice(text)

    def passing(self, text: str) -> None:
        """A line that the next one takes the place of; left out where the last one is not long ago."""
        between = self.between_glances if self.terminal else self.between_lines
        if self.quiet or time.monotonic() - self._last < between:
            return
        self._last = time.monotonic()
        (screen.passing if self.terminal else screen.notice)(text)
