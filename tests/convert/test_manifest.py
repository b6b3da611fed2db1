"""The manifest of known checkpoints, as shipped and as it may be broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.manifest import read_manifest, weights_folder
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import NETWORKS, classifier


def test_the_shipped_manifest_names_both_networks_with_their_published_figures() -> None:
    manifest = read_manifest()
    defaults = [known for known in manifest.values() if known.default]
    assert {known.network for known in defaults} == set(NETWORKS) and len(defaults) == 2
    for known in defaults:
        assert known.head == classifier(8) and known.file == f"{known.network}_ferplus_dag.pth"
        assert known.urls and all(url.startswith(("http://", "https://")) for url in known.urls) and known.cited
    assert manifest["resnet50_ferplus"].accuracy == {"val": 89.0, "test": 87.6}
    assert manifest["senet50_ferplus"].accuracy == {"val": 89.8, "test": 88.8}
    assert manifest["senet50_vggface2"].head == classifier(8631)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a", "not valid TOML"),
        ("[a]\nfile = 'x.pth'", r"\[a\]"),
        ("[a]\nfile='x'\nnetwork='resnet50'\nhead='round'\nurls=[]\ncited=''", r"\[a\].*round"),
        ("[a]\nfile='x'\nnetwork='resnet50'\nhead='none'\nurls=[]\ncited=''\ncolour='red'", r"\[a\].*colour"),
        ("[a]\nfile='x'\nnetwork='resnet50'\nhead='classifier'\nunits=0\nurls=[]\ncited=''", r"\[a\].*at least one"),
        ("a = 3", r"\[a\]"),
    ],
)
def test_a_broken_manifest_names_the_entry(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.toml").write_text(text)
    with pytest.raises(BadInputError, match=told):
        read_manifest(tmp_path / "manifest.toml")


def test_the_variable_moves_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERPLUS_WEIGHTS", str(tmp_path))
    assert weights_folder() == tmp_path
    assert "resnet50_ferplus" in read_manifest()  # the one that comes with the package, where the folder has none
