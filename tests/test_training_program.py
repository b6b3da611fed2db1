"""weights/trained/train.py, the program that trained the large networks: it runs, and starts where it says."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ferplus_keras import EmotionClassifier
from ferplus_keras.finetune.augmentation import COLUMNS, maps
from ferplus_keras.finetune.recipe import load_recipe
from ferplus_keras.finetune.warping import warped
from ferplus_keras.networks.preprocessing import PUBLISHED
from tests.ferplus_files import small, write_pair

PROGRAM = Path(__file__).parents[1] / "weights/trained/train.py"
COMPACT = PROGRAM.parent / "compact"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_gates_start_open(program: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = program.network("resnet50").eval()
    for name, module in plain.named_modules():
        if name.endswith("_increase_bn"):
            torch.nn.init.uniform_(module.weight, 0.1, 0.3)
    torch.save(plain.state_dict(), tmp_path / "weights.pt")
    gated = program.filled(program.network("senet50"), program.read(tmp_path / "weights.pt")[1]).eval()
    images = torch.rand(2, 3, 64, 64) * 200 - 100
    with torch.inference_mode():
        torch.testing.assert_close(gated(images), plain(images))


def test_a_teacher_says_what_the_network_says(program: ModuleType) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 48, 48), np.uint8)
    name, arrays = program.read(COMPACT)
    teacher = program.filled(program.network(name), arrays).eval()
    with torch.inference_mode():
        found = teacher(program.plain(torch.from_numpy(images), 48)).softmax(1).numpy()
    wanted = EmotionClassifier().probabilities(np.repeat(images[..., None], 3, axis=-1))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_images_are_warped_as_in_finetune(program: ModuleType) -> None:
    """The same images by the same maps, and maps that are spread alike."""
    images = np.random.default_rng(0).integers(0, 256, (16, 48, 48), np.uint8)
    words = ["--network", "compact", "--data", "x", "--out", "x", "--seconds", "1"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["train.py", *words])
        options = program.parsed()
    torch.manual_seed(0)
    warp = program.Warp.drawn(16, options)
    plain = program.Warp(warp.maps, torch.ones(16), torch.zeros(16), torch.zeros(16, 4))
    wanted = np.array(warped(images[..., None].astype("float32"), warp.maps.numpy(), 96)) - np.float32(PUBLISHED.mean)
    np.testing.assert_allclose(plain.of(torch.from_numpy(images), 96).permute(0, 2, 3, 1), wanted, atol=0.02)

    settings = load_recipe(PROGRAM.parent / "resnet50_ferplus/recipe.toml").augmentation
    theirs = np.array(maps(settings, np.random.default_rng(1).random((20_000, COLUMNS), np.float32)))
    ours = program.Warp.drawn(20_000, options).maps.numpy()
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        there, here = (np.quantile(each, share, axis=0) for each in (theirs, ours))
        np.testing.assert_allclose(here, there, atol=0.03)


@pytest.mark.parametrize("name", ["compact", "wide", "senet50"])
def test_what_it_wrote_is_read_as_what_it_is(program: ModuleType, tmp_path: Path, name: str) -> None:
    made = program.network(name).eval()
    torch.save(made.state_dict(), tmp_path / "weights.pt")
    found, arrays = program.read(tmp_path / "weights.pt")
    assert found == name
    images = torch.rand(1, 3, 48, 48) * 200 - 100
    with torch.inference_mode():
        again = program.filled(program.network(found), arrays).eval()(images)
        torch.testing.assert_close(again, made(images), rtol=0, atol=0)


@pytest.mark.slow  # the full width
def test_it_trains_a_gated_network_under_a_teacher(tmp_path: Path) -> None:
    data, out = write_pair(small(80), tmp_path / "data"), tmp_path / "run"
    command = [
        sys.executable, PROGRAM, "--network", "senet50", "--data", data, "--teacher", COMPACT, "--seconds", "4",
        "--sizes", "0.3:32,1:40", "--batch", "8", "--out", out,
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=100)
    weights = torch.load(out / "weights.pt", weights_only=True)
    assert weights["classifier.weight"].shape == (8, 2048, 1, 1)
    assert all(bool(torch.isfinite(each).all()) for each in weights.values())
    assert (out / "history.csv").read_text().startswith("epoch,size,learning_rate,loss,val_accuracy")


@pytest.mark.slow
def test_the_means_are_written(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the weights of the last step, which take the means' place again once they are written."""
    made = []

    class Average(program.Average):  # type: ignore[name-defined, misc]
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(program, "Average", Average)
    data, out = write_pair(small(80), tmp_path / "data"), tmp_path / "run"
    words = ["train.py", "--network", "compact", "--data", data, "--seconds", "2", "--batch", "8", "--out", out]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    program.main()
    written = torch.load(out / "weights.pt", weights_only=True)
    for found, mean in zip(written.values(), made[0].means, strict=True):
        torch.testing.assert_close(found, mean, rtol=0, atol=0)
