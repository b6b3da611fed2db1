"""The parity check passes on what the converter writes, on every backend, and refuses what it cannot judge.

That it fails where it should is shown in ``tests/mutations``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from convert.conversion import convert
from convert.writers import write
from ferplus_keras.architecture import NO_HEAD, architecture, classifier, embedding
from ferplus_keras.cli import main
from ferplus_keras.errors import BadInputError
from tests.conftest import ROOT, run_python
from tests.seeded import save_state, seeded_checkpoint, seeded_state
from verify import parity as module
from verify.parity import TOLERANCES, Difference, Parity, Precision, check_parity, difference


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the tensors that were compared, in order."""
    names: list[str] = []

    def recording(name: str, reference: np.ndarray, ours: np.ndarray) -> Difference:
        names.append(name)
        return difference(name, reference, ours)

    monkeypatch.setattr(module, "difference", recording)
    yield names


# --- on TensorFlow: the proof ---------------------------------------------------------------------------------------


def test_the_converted_file_is_the_same_function(standin_h5: Path, standin_pth: Path, compared: list[str]) -> None:
    steps: list[str] = []

    result = check_parity(standin_h5, standin_pth, images=2, progress=steps.append)

    assert [each.dtype for each in result.precisions] == ["float64", "float32"]
    assert result.passed
    for each, tolerance in zip(result.precisions, (1e-12, 5e-5), strict=True):
        assert each.tolerance == tolerance
        assert each.logits.relative <= tolerance
        assert each.worst_layer.relative <= tolerance
        assert each.first_over is None
        assert each.top1_agreement == 1.0
        assert each.closest_margin > 1e-3, "the images leave the decision to rounding: choose others"
    # Float32 must not be float64 in disguise, nor the other way round.
    assert result.precisions[0].logits.relative < 1e-10 < 1e-8 < result.precisions[1].logits.relative
    assert result.figure("float64") == result.precisions[0].logits.relative
    assert result.figure("float16") is None

    table = architecture(result.network)
    every = [layer.name for layer in table.layers[1:]]
    assert compared == 2 * ([*every, *every, table.output])  # both images, then the logits; in both precisions
    assert len(every) == {"resnet50": 175 - 1, "senet50": 271 - 1}[result.network]
    assert len(steps) == 2
    assert result.standin
    assert (result.backend, result.images) == ("tensorflow", 2)
    assert result.seconds > 0

    data = json.loads(json.dumps(result.as_dict()))
    assert (data["passed"], data["standin"], data["schema"]) == (True, True, 1)
    assert (data["model"], data["source"]) == (standin_h5.name, standin_pth.name)
    assert [each["passed"] for each in data["precisions"]] == [True, True]
    assert data["precisions"][0]["logits"]["relative"] == result.figure("float64")


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet50"], indirect=True)
def test_a_tolerance_below_rounding_fails(standin_h5: Path, standin_pth: Path) -> None:
    result = check_parity(standin_h5, standin_pth, images=1, dtypes=("float64",), tolerances={"float64": 1e-17})
    assert not result.passed
    assert result.precisions[0].first_over == "conv1_7x7_s2"


def test_the_command_says_where_two_functions_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def precision(dtype: str, relative: float, first_over: str | None) -> Precision:
        apart = Difference("classifier", relative, relative, relative, True)
        return Precision(dtype, apart, apart, first_over, 1.0, 0.1, TOLERANCES[dtype])

    precisions = [precision("float64", 3e-7, "conv4_3_3x3"), precision("float32", 4e-6, None)]
    failed = Parity("model.h5", "source.pth", "resnet50", "tensorflow", 4, False, 1.0, precisions)
    monkeypatch.setattr(module, "check_parity", lambda *_arguments, **_options: failed)

    codes = [
        main(["verify", "parity", "model.h5", "--against", "source.pth", *json_or_not])
        for json_or_not in ([], ["--json"])
    ]

    output = capsys.readouterr()
    assert codes == [1, 1]
    float64, float32 = (line for line in output.out.splitlines() if line.startswith("  float"))
    assert "3.0e-07 (allowed 1e-12)" in float64 and float64.endswith("FAIL")
    assert "4.0e-06 (allowed 5e-05)" in float32 and float32.endswith("pass")
    assert "error: model.h5 is not the same function as source.pth; they part at conv4_3_3x3." in output.err
    assert json.loads(output.out[output.out.index("{") :])["passed"] is False


def test_in_float32_a_layers_figure_is_rounding_and_the_logits_decide() -> None:
    near, far = (Difference("classifier", value, value, value, True) for value in (1e-6, 1e-4))
    assert Precision("float32", near, far, "conv5_3_3x3", 1.0, 0.1, 5e-5).passed
    assert not Precision("float32", far, far, "conv5_3_3x3", 1.0, 0.1, 5e-5).passed
    exact = Difference("classifier", 1e-15, 1e-15, 1e-15, True)
    assert not Precision("float64", exact, near, "conv5_3_3x3", 1.0, 0.1, 1e-12).passed
    nothing_run = Parity("model.h5", "source.pth", "resnet50", "tensorflow", 4, False)
    assert not nothing_run.passed, "no precision at all is no proof"


@pytest.mark.parametrize("network", ["senet50"], indirect=True)
@pytest.mark.parametrize(
    ("suffix", "dropout"), [(".keras", 0.5), pytest.param(".weights.h5", None, marks=pytest.mark.slow)]
)
def test_keras_own_formats_are_the_same_function(
    standin_pth: Path, tmp_path: Path, suffix: str, dropout: float | None
) -> None:
    path = tmp_path / f"model-standin{suffix}"
    convert(standin_pth, [path], dropout=dropout)

    result = check_parity(path, standin_pth, images=1, dtypes=("float64",))

    path.unlink()
    assert result.passed
    assert result.precisions[0].logits.relative <= 1e-12


@pytest.mark.parametrize("network", ["resnet50"], indirect=True)
def test_a_network_without_head_is_compared_by_its_features(
    standin_pth: Path, tmp_path: Path, compared: list[str]
) -> None:
    paths = [tmp_path / "features-standin.h5", tmp_path / "features-standin.pth"]
    convert(standin_pth, paths, top=False)

    result = check_parity(*paths, images=1, dtypes=("float64",))

    assert result.passed
    assert compared[-1] == "conv5_3_relu"
    assert compared[:-1] == [layer.name for layer in architecture("resnet50", NO_HEAD).layers[1:]]


def test_an_embedding_is_compared_by_its_vector(tmp_path: Path) -> None:
    head = embedding(128)
    source = save_state(seeded_state("senet50", head), tmp_path / "senet50_128.pth")
    write(seeded_checkpoint("senet50", head), tmp_path / "senet50_128.h5")

    result = check_parity(tmp_path / "senet50_128.h5", source, images=1, dtypes=("float64",))

    assert result.passed
    assert result.precisions[0].logits.layer == "feat_extract"
    assert not result.standin


# --- on the other backends, in processes of their own ---------------------------------------------------------------


def run_parity(backend: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "verify", "parity", *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": backend}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("backend", "network"),
    [
        ("torch", "resnet50"),
        ("jax", "senet50"),
        pytest.param("torch", "senet50", marks=pytest.mark.slow),
        pytest.param("jax", "resnet50", marks=pytest.mark.slow),
    ],
    indirect=["network"],
)
def test_the_other_backends_in_float32(backend: str, standin_h5: Path, standin_pth: Path) -> None:
    run = run_parity(backend, standin_h5, "--against", standin_pth, "--json", "--n", 1)

    assert run.returncode == 0, run.stderr
    data = json.loads(run.stdout)
    assert data["backend"] == backend
    assert data["passed"] is True
    (precision,) = data["precisions"]
    assert precision["dtype"] == "float32"
    assert 0 < precision["logits"]["relative"] <= 5e-5
    assert precision["top1_agreement"] == 1.0


#: Prints how far BatchNormalization "in float64" is off, the type of its result, and what check_parity says to it.
FLOAT64 = """
import sys
import keras, numpy as np
from ferplus_keras.errors import BadInputError
from verify.parity import check_parity
generator = np.random.default_rng(0)
x, gamma, beta, mean, variance = generator.uniform(0.5, 1.5, (5, 1, 1, 1, 64))
layer = keras.layers.BatchNormalization(dtype="float64", epsilon=1e-5)
layer.build(x.shape)
layer.set_weights([each.ravel() for each in (gamma, beta, mean, variance)])
result = keras.ops.convert_to_numpy(layer(x))
print(np.abs(result - ((x - mean) / np.sqrt(variance + 1e-5) * gamma + beta)).max())
print(result.dtype)
try:
    check_parity(sys.argv[1], sys.argv[2], dtypes=("float64",))
except BadInputError as error:
    print(error)
"""


@pytest.mark.parametrize("network", ["resnet50"], indirect=True)
def test_float64_is_refused_where_keras_has_none(standin_h5: Path, standin_pth: Path) -> None:
    error, dtype, sentence = run_python(FLOAT64, standin_h5, standin_pth, KERAS_BACKEND="torch").strip().splitlines()

    # The reason: the result calls itself float64 and is as wrong as float32. Once it is not, the refusal can go.
    assert (dtype, float(error) > 1e-9) == ("float64", True)
    assert "in float32 on the torch backend" in sentence
    assert sentence.endswith("Run the float64 check with KERAS_BACKEND=tensorflow.")


# --- what is refused ------------------------------------------------------------------------------------------------


def test_another_network_is_refused(seeded_pth: Path, tmp_path: Path) -> None:
    write(seeded_checkpoint("senet50"), tmp_path / "senet50.h5")
    write(seeded_checkpoint("resnet50", classifier(7)), tmp_path / "seven.h5")

    with pytest.raises(BadInputError, match=r"senet50\.h5 is a senet50 .* is a resnet50, 8 classes: they cannot"):
        check_parity(tmp_path / "senet50.h5", seeded_pth)
    with pytest.raises(BadInputError, match=r"seven\.h5 is a resnet50 with 7 outputs"):
        check_parity(tmp_path / "seven.h5", seeded_pth)


def test_files_that_are_none_are_refused(seeded_pth: Path, tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_text("not a model")
    with pytest.raises(BadInputError, match="is no checkpoint"):
        check_parity(tmp_path / "model.h5", seeded_pth)
    with pytest.raises(BadInputError, match="There is no file"):
        check_parity(tmp_path / "absent.h5", seeded_pth)
    with pytest.raises(BadInputError, match="There is no file"):
        check_parity(seeded_pth, tmp_path / "absent.pth")


def test_a_checkpoint_is_no_model(seeded_pth: Path) -> None:
    with pytest.raises(BadInputError):
        check_parity(seeded_pth, seeded_pth, images=1, dtypes=("float32",))


# --- the measure ----------------------------------------------------------------------------------------------------


def test_a_difference_is_relative_to_the_references_largest_magnitude() -> None:
    reference, ours = np.array([1.0, -4.0, 2.0]), np.array([1.0, -4.0, 2.5])
    assert difference("x", reference, ours) == Difference("x", 0.5, 0.125, np.sqrt(0.25 / 3), True)
    assert difference("x", reference, reference).relative == 0.0
    assert difference("x", np.zeros(3), np.full(3, 0.25)).relative == 0.25, "over nothing, the difference itself"


def test_float32_is_not_rounded_once_more() -> None:
    reference = np.array([1.0], np.float32)
    ours = np.nextafter(reference, np.float32(2))
    assert difference("x", reference, ours).relative == 2.0**-23


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "ours", "both"])
def test_what_is_no_number_is_an_infinite_difference(bad: float, side: str) -> None:
    good, spoilt = np.array([1.0, 2.0]), np.array([1.0, bad])
    reference = good if side == "ours" else spoilt
    ours = good if side == "reference" else spoilt
    assert difference("x", reference, ours) == Difference("x", np.inf, np.inf, np.inf, False)


@pytest.mark.parametrize(("theirs", "ours"), [((2, 3), (3, 2)), ((1, 4), (4,)), ((1, 4), (2, 4)), ((3,), (0,))])
def test_another_shape_is_an_infinite_difference(theirs: tuple[int, ...], ours: tuple[int, ...]) -> None:
    # numpy would stretch some of these over each other without a word.
    result = difference("x", np.zeros(theirs), np.zeros(ours))
    assert (result.relative, result.finite) == (np.inf, False)


def test_the_reference_refuses_a_tensor_too_few(seeded_pth: Path) -> None:
    checkpoint = seeded_checkpoint("resnet50")
    module.reference_module(checkpoint, "float64")
    checkpoint.arrays["conv5_3_3x3"].pop("kernel")
    with pytest.raises((AssertionError, KeyError), match=r"conv5_3_3x3|kernel"):
        module.reference_module(checkpoint, "float64")


def test_the_reference_is_in_evaluation_mode_and_in_the_precision_asked_for() -> None:
    reference = module.reference_module(seeded_checkpoint("resnet50"), "float64")
    assert not reference.training
    assert {parameter.dtype for parameter in reference.parameters()} == {torch.float64}
