"""Faults that leave every layer of ours as it should be, and would pass a check that looks at nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from convert.readers import read_checkpoint
from ferplus_keras.errors import BadInputError
from tests.conftest import run_ferplus
from tests.mutations.test_parity_mutations import damaged
from tests.verify.handmade import port
from verify.parity import Parity, ParityOptions, check_parity
from verify.predictors import open_predictor
from verify.result import as_result
from verify.same import check_same
from verify.text import as_text

pytestmark = pytest.mark.usefixtures("small")

ONE = pytest.mark.parametrize("network", ["resnet50"], indirect=True)


def checked(path: Path, source: Path) -> Parity:
    return check_parity(path, source, ParityOptions(images=1, dtypes=("float64",)))


ENDS: dict[str, Callable[[Any, Any], Any]] = {
    "a sigmoid in place of the softmax": lambda logits, _: keras.layers.Activation("sigmoid")(logits),
    "the logits' negative": lambda logits, _: keras.layers.Rescaling(-1.0)(logits),
    "another classifier behind it": lambda _, probabilities: keras.layers.Dense(3, activation="softmax")(probabilities),
}

#: The others are run by `make test-all` only.
FIRST_END = next(iter(ENDS))


@ONE
@pytest.mark.parametrize(
    "end",
    [pytest.param(end, id=name, marks=pytest.mark.slow if name != FIRST_END else []) for name, end in ENDS.items()],
)
def test_what_the_model_returns_is_held_against_what_it_should(
    end: Callable[[Any, Any], Any], standin_h5: Path, standin_pth: Path, tmp_path: Path
) -> None:
    model = keras.models.load_model(standin_h5, compile=False)
    spoilt = keras.Model(model.inputs, end(model.get_layer("classifier").output, model.output))
    spoilt.save(tmp_path / "spoilt-standin.keras")
    result = checked(tmp_path / "spoilt-standin.keras", standin_pth)
    assert result.runs[0].first_over is None and not result.passed
    data = as_result(result, standin_pth, "")
    assert not data["passed"]
    assert "the model returns something other than its head computes" in as_text(data)


@pytest.mark.slow
@ONE
def test_of_several_outputs_the_classes_are_held_against_the_source_and_that_is_said(
    standin_h5: Path, standin_pth: Path, tmp_path: Path
) -> None:
    model = keras.models.load_model(standin_h5, compile=False)
    features = model.get_layer("pool5_7x7_s1").output
    path = tmp_path / "more-standin.keras"
    keras.Model(model.inputs, [features, model.output]).save(path)
    result = checked(path, standin_pth)
    said = "of its 2 outputs only prob is used, not pool5_7x7_s1"
    assert result.passed and said in as_text(as_result(result, standin_pth, ""))
    assert said in read_checkpoint(path).provenance.notes and said in open_predictor(path).notes
    assert check_same(path, standin_h5).notes[-1] == f"{path.name}: {said}"


@ONE
@pytest.mark.slow
def test_layers_with_arrays_that_nobody_knows_are_no_part_of_the_checkpoint(
    standin_h5: Path, standin_pth: Path, tmp_path: Path
) -> None:
    model = keras.models.load_model(standin_h5, compile=False)
    extra = keras.layers.Dense(8, activation="softmax", name="mine")(model.output)
    keras.Model(model.inputs, extra).save(tmp_path / "longer-standin.keras")
    result = checked(tmp_path / "longer-standin.keras", standin_pth)
    assert result.tensors.extra == ["mine"] and not result.passed
    assert "left over in the model: mine" in as_text(as_result(result, standin_pth, ""))


@ONE
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda record: record["preprocessing"].update(channel_order="BGR"), "channel_order BGR"),
        (lambda record: record["labels"].reverse(), "the classes contempt, fear"),
    ],
    ids=["the record says BGR", "the record has another order of the classes"],
)
def test_what_the_file_tells_its_users_is_checked(
    change: Callable[[dict[str, Any]], None], told: str, standin_h5: Path, standin_pth: Path, tmp_path: Path
) -> None:
    path = damaged(standin_h5, tmp_path / "told-standin.h5", lambda _: None)
    with h5py.File(path, "r+") as file:
        record = json.loads(file.attrs["ferplus_keras"])
        change(record)
        file.attrs["ferplus_keras"] = json.dumps(record)
    result = checked(path, standin_pth)
    assert not result.preprocessing.passed and told in result.preprocessing.summary and not result.passed


@ONE
@pytest.mark.slow
def test_a_port_with_albanies_names_and_a_softmax_in_its_head_passes(standin_pth: Path, tmp_path: Path) -> None:
    # Not a fault, and once taken for one: names told the checker that there was no softmax to look behind.
    checkpoint = read_checkpoint(standin_pth)
    model = port(checkpoint, dense_excitation=False, fused=False, operators=False)
    config, weights = model.get_config(), model.get_weights()
    text = json.dumps(config)
    from ferplus_keras.networks.models import model_from_architecture

    ours = [layer.name for layer in model_from_architecture(checkpoint.architecture).layers if layer.weights]
    theirs = [layer.name for layer in model.layers if layer.weights]
    by_array = {}
    for layer, roles in checkpoint.arrays.items():
        first = next(iter(roles.values()))
        by_array[(first.size, first.reshape(-1)[:16].tobytes())] = layer
    for layer in model.layers:
        if layer.weights:
            first = np.asarray(layer.get_weights()[0])
            name = by_array[(first.size, np.ascontiguousarray(first.reshape(-1)[:16]).tobytes())]
            text = text.replace(f'"{layer.name}"', f'"{name}"')
    renamed = keras.Model.from_config(json.loads(text))
    renamed.set_weights(weights)
    assert len(ours) == len(theirs) and {layer.name for layer in renamed.layers if layer.weights} == set(ours)
    renamed.save(tmp_path / "named-standin.keras")
    assert checked(tmp_path / "named-standin.keras", standin_pth).passed


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1"])
def test_no_tolerance_lets_everything_pass(value: str) -> None:
    run = run_ferplus("verify", "parity", "a.h5", "--against", "b.pth", f"--float64={value}")
    assert run.returncode == 2 and "a number above 0" in run.stderr


@ONE
@pytest.mark.parametrize("when", ["at once", pytest.param("on an image", marks=pytest.mark.slow)])
def test_reference_code_cannot_end_the_check(when: str, standin_h5: Path, standin_pth: Path, tmp_path: Path) -> None:
    code = tmp_path / "ends.py"
    if when == "at once":
        code.write_text("import sys\nsys.exit(0)\n")
    else:
        code.write_text(
            "import sys\n"
            "from ferplus_keras.networks.architecture import architecture\n"
            "from ferplus_keras.networks.torch_module import ReferenceNetwork\n"
            "class Ends(ReferenceNetwork):\n"
            "    def __init__(self):\n        super().__init__(architecture('resnet50'))\n"
            "    def forward(self, x):\n        sys.exit(0)\n"
        )
    with pytest.raises(BadInputError, match="SystemExit"):
        check_parity(standin_h5, standin_pth, ParityOptions(images=1, dtypes=("float32",), reference_code=code))
