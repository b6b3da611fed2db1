"""What a file may cost before it is known to be one of these networks.

A network has at most 331 arrays and 104 MB of float32 (175 MB with VGGFace2's 8631 identities), and its numbers hardly
compress. So a reader may make of a file as many bytes as it has, and those of one network besides, and no more: what
unfolds to more is a bomb. Sizes are held against this when they are declared, and again while they are read.
"""

from __future__ import annotations

from dataclasses import dataclass

from ferplus_keras.errors import BadInputError

#: Bytes that may be made beyond the file's own: all of a network whose numbers compress to nothing.
FREE_BYTES = 105_000_000

#: Bytes of JSON and other text in one file, which take thirty times as much when they are parsed. Keras's config of
#: SE-ResNet50 has 300 KB, the header of a .safetensors 40 KB.
TEXT_BYTES = 2 << 20

#: Names in one file: of layers, arrays, links, members of an archive. A training checkpoint has some 1,500.
MAX_NAMES = 100_000

#: Bytes of an archive's directory. A checkpoint with its optimizer's state has 200 KB.
DIRECTORY_BYTES = 2 << 20

#: Groups in groups. Models in models have ten or twelve.
MAX_DEPTH = 64


@dataclass
class Budget:
    """What is left of it for the file ``path`` of ``size`` bytes."""

    path: object
    size: int
    times: int = 1  #: how often its own size the file may unfold to

    def __post_init__(self) -> None:
        self.bytes_left = self.times * self.size + FREE_BYTES
        self.text_left = TEXT_BYTES

    def take(self, size: int, what: str) -> None:
        """Account for ``size`` bytes that are about to be made. Raises :class:`BadInputError`."""
        self.check(size, what)
        self.bytes_left -= size

    def check(self, size: int, what: str) -> None:
        """See that ``size`` bytes may be there for a moment. Raises :class:`BadInputError`."""
        if size > self.bytes_left:
            whole = self.times * self.size + FREE_BYTES - self.bytes_left + size
            raise BadInputError(
                f"{self.path}: with {what} it would unfold to {whole:,} bytes, and the file has {self.size:,}. No "
                "network of this family is like that; get the file elsewhere."
            )

    def text(self, size: int, what: str) -> None:
        """Account for ``size`` bytes of JSON. Raises :class:`BadInputError`."""
        if size > self.text_left:
            raise BadInputError(
                f"{self.path}: {what} has {size:,} bytes, and no network's has more than {TEXT_BYTES:,}. "
                "Get the file elsewhere."
            )
        self.text_left -= size
