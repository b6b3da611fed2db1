"""What mkdocs needs help with: showing the notebook, and taking in the linked files that lie outside docs/."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?!\w+://|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    waiting = list(files.documentation_pages())
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text = notebook_as_markdown(json.loads(file.content_string))
        page = File.generated(config, file.src_uri.replace(".ipynb", ".md"), content=text)
        files.remove(file)
        files.append(page)
    while waiting:
        page = waiting.pop()
        assert page.abs_src_path is not None
        for link in LINK.findall(page.content_string):
            target = (Path(page.abs_src_path).parent / link).resolve()
            uri = site_uri(target)
            if target.is_file() and uri.startswith("repository/") and files.get_file_from_path(uri) is None:
                listed = InclusionLevel.NOT_IN_NAV
                linked = File.generated(config, uri, abs_src_path=str(target), inclusion=listed)
                files.append(linked)
                if linked.is_documentation_page():
                    waiting.append(linked)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = page.file.abs_src_path
    if source is None:
        return markdown
    folder = os.path.dirname(page.file.src_uri)  # noqa: PTH120 - a path within the site, not on the disk

    def moved(found: re.Match[str]) -> str:
        target = (Path(source).parent / found[0]).resolve()
        return os.path.relpath(site_uri(target), folder or ".") if target.exists() else found[0]

    return LINK.sub(moved, markdown)


def site_uri(target: Path) -> str:
    """Where a file of the repository lies in the site."""
    if target.is_relative_to(ROOT / "docs"):
        return target.relative_to(ROOT / "docs").as_posix().replace(".ipynb", ".md")
    return "repository/" + os.path.relpath(target, ROOT)


def notebook_as_markdown(book: dict[str, Any]) -> str:
    parts = []
    for cell in book["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                image = "".join(data["image/png"]).replace("\n", "")
                parts.append(f'<img alt="output" src="data:image/png;base64,{image}">')
            elif said := "".join(output.get("text", data.get("text/plain", ""))):
                parts.append(f"```text\n{said.rstrip()}\n```")
    return "\n\n".join(parts)
