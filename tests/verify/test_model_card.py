"""How a model card begins: the hub reads its front matter, and its Python is Python."""

from __future__ import annotations

import re

import pytest
from ruamel.yaml import YAML

from verify.card import opening


@pytest.mark.parametrize("file", ["best.h5", None])
def test_the_front_matter_is_yaml_and_the_snippet_names_the_file(file: str | None) -> None:
    text = "\n".join(opening("SE-ResNet50", ("neutral", "happiness"), 64, file))
    _, matter, rest = text.split("---\n")
    read = YAML(typ="safe").load(matter)
    assert (
        read["library_name"] == "keras" and read["pipeline_tag"] == "image-classification" and "ferplus" in read["tags"]
    )
    assert "# SE-ResNet50\n" in rest and "2 expressions" in rest and "64 x 64" in rest
    code = re.findall(r"```python\n(.*?)```", rest, re.DOTALL)
    assert len(code) == (file is not None)
    for each in code:
        compile(each, "card", "exec")
        assert '"best.h5"' in each
