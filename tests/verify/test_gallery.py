"""The faces that are shown, and heat maps that are Grad-CAM's own, held against gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferplus_keras.cli import main
from ferplus_keras.engines.forward import Forward, place_logits
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import architecture
from ferplus_keras.networks.emotions import EMOTIONS
from tests.ferplus_files import small, write_pair
from tests.seeded import seeded_checkpoint
from tests.verify.oracles import painted
from verify.gallery import Looks, groups, look, open_network
from verify.images import natural_images

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def opened(standin_pth: Path) -> Any:
    return open_network(standin_pth)


def test_what_speaks_for_a_class_is_grad_cam(opened: Any, standin_pth: Path) -> None:
    """Against PyTorch's gradients, as the paper has it: mean gradient a channel, weighted sum, ReLU."""
    import torch

    from convert.readers import read_checkpoint
    from verify.references.torch_reference import reference_module

    images = natural_images(2, seed=3)
    module = reference_module(read_checkpoint(standin_pth), "float32")
    maps: list[torch.Tensor] = []

    def watch(name: str, value: torch.Tensor) -> None:
        if name == "conv5_3_relu":
            value.retain_grad()
            maps.append(value)

    logits = module(images.requires_grad_(), observe=watch)
    classes = logits.argmax(dim=1)
    logits[torch.arange(2), classes].sum().backward()
    (last,) = maps
    assert last.grad is not None
    channel_weights = last.grad.mean(dim=(2, 3), keepdim=True)
    expected = torch.relu((channel_weights * last).sum(dim=1)).detach().numpy()
    ours = opened.forward.last_maps(images.detach().numpy().transpose(0, 2, 3, 1))
    kernel, bias = opened.forward.head
    heat = np.maximum(place_logits(ours, kernel)[[0, 1], :, :, classes.numpy()], 0)
    np.testing.assert_allclose(heat, expected, atol=1e-4 * float(expected.max()))
    np.testing.assert_allclose(ours.mean(axis=(1, 2)) @ kernel + bias, logits.detach().numpy(), rtol=1e-3, atol=1e-3)


def test_what_the_places_say_adds_up_to_the_logits(opened: Any) -> None:
    data = painted([0, 3, 5], [1, 1, 2])
    from ferplus_keras.dataset.protocols import PROTOCOLS

    looks = look(opened, data, PROTOCOLS["albanie"], "val")
    _, bias = opened.forward.head
    np.testing.assert_allclose(looks.said.sum(axis=(1, 2)) + bias, looks.logits, rtol=1e-5)
    assert looks.rows.tolist() == [0, 1] and looks.labels.tolist() == [0, 3]
    for emotion in range(8):
        np.testing.assert_array_equal(looks.heat(0, emotion), np.maximum(looks.said[0, :, :, emotion], 0))
    with pytest.raises(BadInputError, match="no train images"):
        look(opened, data, PROTOCOLS["albanie"], "train")


def test_maps_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="last maps"):
        place_logits(np.zeros((1, 2048, 7, 7)), np.zeros((2048, 8)))
    from ferplus_keras.networks.architecture import embedding

    with pytest.raises(ValueError, match="classifier"):
        Forward(architecture("resnet50", embedding(128)), {})


def made_up(count: int = 200, seed: int = 0) -> Looks:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 8, count)
    logits = generator.normal(0, 2, (count, 8))
    logits[np.arange(count), labels] += 3
    votes = generator.dirichlet(np.ones(8) * 0.3, count)
    return Looks(np.arange(count), logits, np.zeros((count, 7, 7, 8), np.float32), labels, votes)


def test_the_choice_is_a_rule() -> None:
    looks = made_up()
    mistakes, *classes, divided = groups(looks)
    wrong = np.flatnonzero(~looks.correct)
    surest = wrong[np.argsort(-looks.confidence[wrong], kind="stable")[:12]]
    assert list(mistakes.indices) == surest.tolist()
    assert [group.title.lower() for group in classes] == list(EMOTIONS)
    for number, group in enumerate(classes):
        assert all(looks.labels[index] == number for index in group.indices)
        right = [index for index in group.indices if looks.correct[index]]
        sure = looks.confidence[right]
        of_class = looks.confidence[(looks.labels == number) & looks.correct]
        assert (np.diff(sure) <= 0).all() and sure[0] == of_class.max() and sure[-1] == of_class.min()
    shown = [index for group in (mistakes, *classes, divided) for index in group.indices]
    assert len(shown) == len(set(shown)), "no face is shown twice"
    again = groups(made_up())
    assert [group.indices for group in again] == [group.indices for group in (mistakes, *classes, divided)]


def test_a_network_that_is_always_right_has_no_mistakes() -> None:
    looks = made_up(16)
    right = Looks(looks.rows, 9.0 * np.eye(8)[looks.labels], looks.said, looks.labels, looks.distribution)
    assert "mistakes" not in [group.id for group in groups(right)]


def test_classes_of_another_order_are_put_in_ferpluss(tmp_path: Path) -> None:
    from dataclasses import replace

    from convert.writers import write

    checkpoint = seeded_checkpoint("resnet50")
    turned = tuple(reversed(EMOTIONS))
    path = tmp_path / "turned.safetensors"
    write(replace(checkpoint, provenance=replace(checkpoint.provenance, labels=turned)), path)
    kernel, bias = open_network(path).forward.head
    np.testing.assert_array_equal(kernel, checkpoint.arrays["classifier"]["kernel"][:, ::-1])
    np.testing.assert_array_equal(bias, checkpoint.arrays["classifier"]["bias"][::-1])


def test_a_network_without_emotions_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from convert.writers import write
    from ferplus_keras.networks.architecture import embedding

    path = tmp_path / "e.safetensors"
    write(seeded_checkpoint("resnet50", embedding(128)), path)
    write_pair(small(), tmp_path)
    assert main(["report", str(path), "--data", str(tmp_path), "--out", str(tmp_path / "x.html")]) == 2
    assert "needs a classifier of 8 classes" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()
