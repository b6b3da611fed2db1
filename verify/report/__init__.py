"""Reports: one result, four files. A JSON file and ``junit.xml`` for programs, the others for people.

``page.py`` is the shell of a page (verdict, figures under it, sections), ``parts.py`` and ``plots.py`` what stands in
the sections, ``junit.py`` and ``markdown.py`` the other two forms, ``numbers.py`` how figures are written. They know
nothing of what is reported; ``parity_*.py`` and ``accuracy_*.py`` fill them with a result of that kind.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ferplus_keras.files.atomic import write_text
from verify.result import Result

if TYPE_CHECKING:
    import numpy as np


def write_report(result: Result, folder: Path, images: np.ndarray | None = None) -> list[Path]:
    """Write the report of a ``result`` into ``folder`` and return its four files, the page for people last.

    The result is :mod:`verify.result`'s or :mod:`verify.accuracy_result`'s. An accuracy's comes with the data set's
    ``images`` (n x 48 x 48 bytes): its page shows the most confident mistakes, and is the only file that holds images.
    Raises :class:`OutputError` when the folder cannot be written to.
    """
    from verify.report import accuracy_texts, parity_texts
    from verify.report.accuracy_page import accuracy_page
    from verify.report.page import render_page
    from verify.report.parity_page import parity_page

    texts = parity_texts if images is None else accuracy_texts
    page = parity_page(result) if images is None else accuracy_page(result, images)
    written = {
        f"{'parity' if images is None else 'accuracy'}.json":
            json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) + "\n",
        "junit.xml": texts.junit_xml(result),
        "report.md": texts.summary(result),
        "report.html": render_page(page),
    }  # fmt: skip
    return [write_text(folder / name, text) for name, text in written.items()]
