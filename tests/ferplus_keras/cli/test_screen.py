"""What is printed is text, whatever it is made of; what standard streams cannot take has an exit code."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferplus_keras.cli import screen
from ferplus_keras.errors import OutputError
from ferplus_keras.wording import all_printable, counted, printable
from tests.conftest import ROOT


def test_nothing_else_prints() -> None:
    """No module of the packages calls ``print`` or writes to a standard stream, but the one that does."""
    for folder in ("ferplus_keras", "convert", "verify"):
        for path in (ROOT / folder).rglob("*.py"):
            if path == Path(screen.__file__):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                assert not (isinstance(node, ast.Name) and node.id == "print"), f"{path}: print"
                if isinstance(node, ast.Attribute) and node.attr == "write":
                    assert "sys.std" not in ast.unparse(node), f"{path}: {ast.unparse(node)}"


@given(st.text(st.characters(categories=["C", "Z", "L", "P", "S"]), max_size=30))
def test_any_text_is_one_line_that_no_log_obeys(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() and "##[" not in shown and not shown.lstrip().startswith("::")
    assert printable(shown) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("é 表 a.b/c-d", "é 表 a.b/c-d"),
        ("\x1b]0;title\x07\x1b[31m", "\\x1b]0;title\\x07\\x1b[31m"),
        ("a\r\n::error::b", "a\\r\\n::error::b"),
        ("\u2028\u202e\x85\x9b", "\\u2028\\u202e\\x85\\x9b"),
        ("\ud800 \udcff", "\\ud800 \\udcff"),
        (" ::warning::x", " \\x3a:warning::x"),
        ("a::b", "a::b"),
        ("a ##[error]b ##vso[c] ## d", "a #\\x23[error]b #\\x23vso[c] ## d"),
    ],
)
def test_what_becomes_of_what(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert all_printable({text: [text, (text,), 1, None]}) == {shown: [shown, (shown,), 1, None]}


def test_plurals() -> None:
    assert [counted(number, "image") for number in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]
    assert counted(2, "copy", "copies") == "2 copies"


def test_a_line_is_a_line_and_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    screen.result("a\n::error::b", "::c")
    assert capsys.readouterr().out == "a\\n::error::b\n\\x3a:c\n"
    screen.result_json({"a": "\ud800\x1b::\n"})
    out = capsys.readouterr().out
    assert out.isascii() and json.loads(out) == {"a": "\ud800\x1b::\n"}
    screen.notice("\x1b")
    assert capsys.readouterr().err == "\\x1b\n"


def test_what_the_encoding_has_not_is_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(taken, "ascii"))
    screen.news("α é")
    assert taken.getvalue() == b"\\u03b1 \\xe9\n"


class Full(io.StringIO):
    """A stream onto a full disk, or to a reader that has gone."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def flush(self) -> None:
        raise self.error


def test_a_result_that_cannot_be_written_is_an_error_and_news_go_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error in (OSError(28, "No space left on device"), OSError(9, "Bad file descriptor")):
        monkeypatch.setattr(sys, "stdout", Full(error))
        with pytest.raises(OutputError, match=f"could not take the result: {error.strerror}"):
            screen.result("x")
        with pytest.raises(OutputError, match="closed"):
            screen.result("y")
        screen.news("written: a", "written: b")
        assert capsys.readouterr().err == "written: a\nwritten: b\n"
        monkeypatch.setattr(sys, "stdout", Full(error))
        screen.news("written: c")
        assert capsys.readouterr().err == "written: c\n"
    monkeypatch.setattr(sys, "stdout", Full(BrokenPipeError()))
    with pytest.raises(BrokenPipeError):
        screen.result("x")
    monkeypatch.setattr(sys, "stderr", Full(OSError(28, "full")))
    screen.notice("nobody hears this")
    screen.notice("nor this")


@pytest.mark.parametrize(
    ("words", "redirection", "code", "told"),
    [
        ("--help", ">/dev/full", 3, "Standard output could not take"),
        ("--help", ">&-", 3, "Standard output is closed"),
        ("inspect nothing.pth", "2>/dev/full", 2, ""),
        ("inspect nothing.pth", "2>&-", 2, ""),
        ("inspect nothing.pth --json", ">&-", 2, "There is no file"),
        ("predict {file} -", "<&-", 2, "Standard input is closed"),
        ("predict {file} -", "0>/dev/null", 2, "list of names cannot be read: bad file descriptor"),
        ("--help", "| true", 0, ""),
    ],
)
def test_streams_that_are_closed_or_full(tmp_path: Path, words: str, redirection: str, code: int, told: str) -> None:
    (tmp_path / "x.onnx").write_text("not looked at")
    command = f"{sys.executable} -m ferplus_keras {words.format(file=tmp_path / 'x.onnx')} {redirection}"
    run = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == code and told in run.stderr and "Traceback" not in run.stderr, run.stderr
