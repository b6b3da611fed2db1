"""How the first bytes of a file tell its format: apart from the readers, which need not be loaded for it."""

from __future__ import annotations

#: How MATLAB's 128 bytes before either of its formats begin.
MATLAB = b"MATLAB "


def is_mat_file(head: bytes) -> bool:
    """Whether a file that starts with ``head`` (128 bytes do) is MATLAB's, whatever its name."""
    return head.startswith(MATLAB)


def is_onnx(head: bytes) -> bool:
    """Whether a file that starts with ``head`` may be ONNX: a protobuf message with a version of the format first."""
    return len(head) > 2 and head[0] == 0x08 and 1 <= head[1] <= 0x20 and head[2] in b"\x12\x1a\x22\x28\x32\x3a\x42"


def is_safetensors(head: bytes) -> bool:
    """Whether a file that starts with ``head`` (9 bytes do) may be safetensors: a header length, then JSON."""
    return len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100 << 20
