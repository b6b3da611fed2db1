"""Reports: one result, four files. ``parity.json`` and ``junit.xml`` for programs, the others for people.

``page.py`` is the shell of a page (verdict, figures under it, sections), ``parts.py`` and ``plots.py`` what stands in
the sections, ``junit.py`` and ``markdown.py`` the other two forms, ``numbers.py`` how figures are written. They know
nothing of parity; ``parity_page.py`` and ``parity_texts.py`` fill them with a parity result.
"""

from __future__ import annotations

import json
from pathlib import Path

from verify.report.files import ready_folder, write_text
from verify.result import Result

__all__ = ["ready_folder", "write_report"]


def write_report(result: Result, folder: Path) -> list[Path]:
    """Write the report of a parity ``result`` (see :mod:`verify.result`) into ``folder`` and return its four files.

    The page for people stands last. Raises :class:`OutputError` when the folder cannot be written to.
    """
    from verify.report.page import render_page
    from verify.report.parity_page import parity_page
    from verify.report.parity_texts import junit_xml, summary

    written = {
        "parity.json": json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) + "\n",
        "junit.xml": junit_xml(result),
        "report.md": summary(result),
        "report.html": render_page(parity_page(result)),
    }
    ready_folder(folder)
    return [write_text(folder / name, text) for name, text in written.items()]
