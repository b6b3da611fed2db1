"""An accuracy result on the disk: ``accuracy.json`` and ``junit.xml`` for programs, the others for people."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from verify.report.files import ready_folder, write_text
from verify.result import Result


def write_accuracy_report(result: Result, images: np.ndarray, folder: Path) -> list[Path]:
    """Write the report of an accuracy ``result`` into ``folder`` and return its four files, the page last.

    ``images`` are the data set's (n x 48 x 48 bytes): the page shows the most confident mistakes, and is the only file
    that holds images. Raises :class:`OutputError` when the folder cannot be written to.
    """
    from verify.report.accuracy_page import accuracy_page
    from verify.report.accuracy_texts import junit_xml, summary
    from verify.report.page import render_page

    written = {
        "accuracy.json": json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) + "\n",
        "junit.xml": junit_xml(result),
        "report.md": summary(result),
        "report.html": render_page(accuracy_page(result, images)),
    }
    ready_folder(folder)
    return [write_text(folder / name, text) for name, text in written.items()]


__all__ = ["write_accuracy_report"]
