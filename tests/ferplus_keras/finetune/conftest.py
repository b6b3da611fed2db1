"""Runs of the command that several tests look at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_ferplus

#: The head alone learns, on features that `tests.seeing` made by rule. Nothing of it is random but the head's start.
RECIPE = """
base = "scratch"
[data]
mixup = 0.0
[augmentation]
flip = 0.5
zoom = [1.0, 1.0]
rotation_range = 0.0
skew_range = 0.0
crop_scale = [1.0, 1.0]
crop_ratio = [1.0, 1.0]
brightness = 0.0
contrast = 0.0
erased = 0.0
[network]
size = 32
dropout = 0.0
train_from = "classifier"
[optimizer]
name = "adam"
learning_rate = 0.01
weight_decay = 0.0
clip_norm = 0.0
ema = 0.9
layer_factors = {}
[schedule]
epochs = 3
warmup_epochs = 0.0
[training]
batch = 32
"""


@dataclass(frozen=True)
class Learned:
    """A finished run: its folder, and what the command said."""

    folder: Path
    told: dict[str, Any]
    said: str


@pytest.fixture(scope="session")
def seeing_start(session_folder: Path) -> Path:
    from convert.writers import write
    from tests.seeing import seeing_checkpoint

    path = session_folder / "seeing.safetensors"
    if not path.exists():
        write(seeing_checkpoint(), path)
    return path


@pytest.fixture(scope="session")
def learned(session_folder: Path, seeing_start: Path, ferplus_data: Path) -> Learned:
    """A small run on real faces: 1,600 to learn from, at 32 x 32, the head alone."""
    folder = session_folder / "learned"
    (session_folder / "small.toml").write_text(RECIPE)
    run = run_ferplus(
        "finetune", "--data", ferplus_data, "--recipe", session_folder / "small.toml", "--weights", seeing_start,
        "--limit", 1600, "--out", folder, "--formats", "h5,safetensors", "--json", "--backend", "tensorflow",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return Learned(folder, json.loads(run.stdout), run.stderr)
