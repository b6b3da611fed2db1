""".mat as a target: what MatConvNet asks of a saved network, Octave's view of it, and what a sigma can hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from safetensors.numpy import load_file

from convert.conversion import convert
from convert.readers import read_checkpoint
from convert.readers.mat_file import sigma_of
from convert.writers import write
from ferplus_keras.errors import OutputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.networks.architecture import NO_HEAD, BatchNorm, architecture, classifier
from tests.convert.readers.test_matlab import needs_octave, octave
from tests.seeded import seeded_checkpoint
from verify.metrics import ulps

pytestmark = pytest.mark.usefixtures("small")

#: Class -> properties that it has in every release of MatConvNet since 1.0-beta15. Source: its matlab/+dagnn/*.m;
#: Layer.load stops at any other.
PROPERTIES = {
    "dagnn.Conv": {"size", "hasBias", "opts", "pad", "stride"},
    "dagnn.BatchNorm": {"numChannels", "epsilon"},
    "dagnn.ReLU": {"useShortCircuit", "opts"},
    "dagnn.Sigmoid": set(),
    "dagnn.Pooling": {"method", "poolSize", "opts", "pad", "stride"},
    "dagnn.Scale": {"size", "hasBias"},
    "dagnn.Sum": {"numInputs"},
    "dagnn.DropOut": {"rate", "frozen"},
}


@pytest.mark.parametrize("network", ["resnet50", "senet50"])
def test_the_fields_are_those_that_loadobj_takes(network: str, tmp_path: Path) -> None:
    """loadobj makes each layer of its class, sets its options, adds it, and sets parameters by name."""
    checkpoint = seeded_checkpoint(network)
    path = write(checkpoint, tmp_path / "x.mat").path
    net = scipy.io.loadmat(path)
    layers, params, variables = net["layers"], net["params"], net["vars"]
    assert layers.dtype.names == ("name", "type", "inputs", "outputs", "params", "block") and layers.shape[0] == 1
    assert set(params.dtype.names) == {"name", "value", "learningRate", "weightDecay"}
    assert set(variables.dtype.names) == {"name", "precious"}
    known_variables = {str(each["name"][0]) for each in variables[0]}
    known_params = {str(each["name"][0]): each["value"] for each in params[0]}
    assert all(value.dtype == np.float32 for value in known_params.values())
    used = []
    for layer in layers[0]:
        kind, block = str(layer["type"][0]), layer["block"]
        assert set(block.dtype.names or ()) <= PROPERTIES[kind]
        for field in ("inputs", "outputs", "params"):
            assert layer[field].dtype == object and layer[field].shape[0] == 1, "a cell row, looped over by column"
        inputs, outputs, owned = (
            [str(name[0]) for name in layer[field][0]] for field in ("inputs", "outputs", "params")
        )
        assert known_variables >= {*inputs, *outputs}
        used += owned
        if kind == "dagnn.Conv":
            size = block["size"][0, 0].ravel()
            assert (*known_params[owned[0]].shape, 1, 1)[:4] == tuple(size)
            assert bool(block["hasBias"][0, 0].item()) == (len(owned) == 2)
            if len(owned) == 2:
                assert known_params[owned[1]].shape == (size[3], 1)
        elif kind == "dagnn.BatchNorm":
            channels = block["numChannels"][0, 0].item()
            shapes = [known_params[name].shape for name in owned]
            assert shapes == [(channels, 1), (channels, 1), (channels, 2)]  # vl_nnbnorm asks for columns
        elif kind == "dagnn.Pooling":
            assert [block[field][0, 0].shape for field in ("poolSize", "pad", "stride")] == [(1, 2), (1, 4), (1, 2)]
    assert sorted(used) == sorted(known_params), "every parameter belongs to one layer: rebuild() drops the others"
    names = [str(layer["name"][0]) for layer in layers[0]]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in (*names, *known_variables, *known_params))
    meta = net["meta"][0, 0]
    normalization = meta["normalization"][0, 0]
    assert normalization["imageSize"].tolist() == [[224, 224, 3]] and normalization["averageImage"].shape == (1, 1, 3)
    assert [str(name[0]) for name in meta["classes"][0, 0]["name"][0]][:2] == ["neutral", "happiness"]
    told = json.loads(str(meta["ferplus_keras"][0, 0]["provenance"][0]))
    assert told["network"] == network and told["output"] == "logits"


@needs_octave
def test_octave_walks_the_network_as_loadobj_does(tmp_path: Path) -> None:
    """The same steps in GNU Octave: classes, sizes and names, without MatConvNet's own classes."""
    write(seeded_checkpoint("senet50", classifier(8)), tmp_path / "x.mat")
    said = octave(
        """
        s = load('x.mat'); assert(isstruct(s.layers) && isstruct(s.params) && isstruct(s.vars) && isstruct(s.meta));
        index = struct(); for i = 1:numel(s.params), index.(s.params(i).name) = i; end
        made = struct('data', true); total = 0; owned = {};
        for l = 1:numel(s.layers)
          layer = s.layers(l);
          assert(ischar(layer.name) && isvarname(layer.name) && strncmp(layer.type, 'dagnn.', 6));
          assert(iscell(layer.inputs) && iscell(layer.outputs) && iscell(layer.params) && isstruct(layer.block));
          for input = layer.inputs, assert(isfield(made, char(input))); end
          for output = layer.outputs, made.(char(output)) = true; end
          for param = layer.params, owned{end + 1} = char(param); end
          values = cellfun(@(name) s.params(index.(name)).value, layer.params, 'UniformOutput', false);
          assert(all(cellfun(@(value) isa(value, 'single'), values)));
          switch layer.type
            case 'dagnn.Conv'
              shape = [size(values{1}) 1 1]; assert(isequal(shape(1:4), layer.block.size));
              assert(isequal(size(layer.block.pad), [1 4]) && isequal(size(layer.block.stride), [1 2]));
              assert(islogical(layer.block.hasBias) && layer.block.hasBias == (numel(values) == 2));
              if layer.block.hasBias, assert(isequal(size(values{2}), [layer.block.size(4) 1])); end
            case 'dagnn.BatchNorm'
              n = layer.block.numChannels; assert(layer.block.epsilon == 1e-5);
              assert(isequal(size(values{1}), [n 1]) && isequal(size(values{2}), [n 1]));
              assert(isequal(size(values{3}), [n 2]));
              assert(all(values{3}(:, 2) > 0));
            case 'dagnn.Pooling'
              assert(any(strcmp(layer.block.method, {'max', 'avg'})) && isequal(size(layer.block.poolSize), [1 2]));
            case 'dagnn.Scale'
              assert(numel(layer.inputs) == 2 && !layer.block.hasBias);
          end
          total += sum(cellfun(@numel, values));
        end
        assert(numel(unique(owned)) == numel(s.params) && isfield(made, 'prediction'));
        assert(isequal(s.meta.normalization.imageSize, [224 224 3]) && iscellstr(s.meta.classes.name));
        assert(abs(s.meta.normalization.averageImage(3) - 91.4953) < 1e-4);
        printf('%d layers, %d params, %d numbers', numel(s.layers), numel(s.params), total);
        """,
        tmp_path,
    )
    table = architecture("senet50")
    norms = sum(layer.channels for layer in table.layers if isinstance(layer, BatchNorm))
    params = sum(len(roles) - ("gamma" in roles) for roles in table.parameters.values())  # mean and variance are one
    assert said == f"{len(table.layers) - 1} layers, {params} params, {table.parameter_count + 2 * norms} numbers"


def test_no_network_that_is_written_needs_more_than_matconvnet(tmp_path: Path) -> None:
    path = write(seeded_checkpoint("senet50", NO_HEAD), tmp_path / "x.mat").path
    kinds = {str(layer["type"][0]) for layer in scipy.io.loadmat(path)["layers"][0]}
    assert kinds <= set(PROPERTIES), "dagnn.Axpy and dagnn.GlobalPooling are in modules of their own"


def test_two_writings_are_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = seeded_checkpoint("resnet50", NO_HEAD)
    assert write(checkpoint, tmp_path / "a.mat").sha256 == write(checkpoint, tmp_path / "b.mat").sha256


# --- what a float32 sigma can hold ----------------------------------------------------------------------------------


def through_sigma(variance: np.ndarray) -> np.ndarray:
    sigma = sigma_of(variance)
    assert sigma.dtype == np.float32
    return (sigma.astype(np.float64) ** 2 - 1e-5).astype(np.float32)


def every_float32(low: float, high: float, step: int = 1) -> np.ndarray:
    first, last = np.array([low, high], np.float32).view(np.uint32)
    return np.arange(first, last, step, dtype=np.uint32).view(np.float32)


def test_a_variance_through_sigma_is_one_ulp_off_at_most_away_from_epsilon() -> None:
    """Every float32 in [1, 4), that is every mantissa with an even and an odd exponent; then a sweep over exponents.

    The sum v + epsilon may cross a power of four where v does not; sigma's spacing doubles there, and the bound is 2.
    """
    for low in (1.0, 1.5, 2.0, 2.5, 3.0, 3.5):
        variance = every_float32(low, low + 0.5)
        off = ulps(variance, through_sigma(variance))
        crossing = variance >= np.float32(4.0) - np.float32(2e-5)
        assert off[~crossing].max() == 1 and off.max() <= 2
    variance = every_float32(2.0**-7, 2.0**40, step=49_999)
    crossing = np.floor(np.log2(variance.astype(np.float64) + 1e-5) / 2) != np.floor(np.log2(variance) / 2)
    assert ulps(variance, through_sigma(variance))[~crossing].max() == 1


def test_near_epsilon_the_error_is_bounded_by_sigmas_spacing_and_not_in_ulps() -> None:
    """|v' - v| <= 2^-23 (v + epsilon) + half an ulp of v: for v far below epsilon that is many of v's ulps."""
    variance = np.concatenate([every_float32(1e-12, 1.0, step=9_999), -every_float32(1e-12, 9e-6, step=9_999)])
    off = np.abs(through_sigma(variance).astype(np.float64) - variance)
    total = variance.astype(np.float64) + 1e-5
    assert (off <= 2.0**-23 * total + 2.0**-24 * np.abs(variance)).all()
    assert ulps(np.float32([1e-9]), through_sigma(np.float32([1e-9])))[0] > 1000


def test_a_sigma_through_its_variance_is_itself() -> None:
    """What a published file holds survives .mat -> .h5 -> .mat bit for bit.

    It does as long as the variance is no coarser than sigma^2, that is from sigma^2 = epsilon / 2 upwards; a BatchNorm
    that was trained has sigma^2 >= epsilon.
    """
    for low, high, step in ((1.0, 2.0, 1), (2.0**-8, 2.0**20, 4_999), (2.24e-3, 2.0**-8, 9)):
        sigma = every_float32(low, high, step)
        variance = (sigma.astype(np.float64) ** 2 - 1e-5).astype(np.float32)
        assert np.array_equal(sigma_of(variance), sigma)


def test_variances_that_no_sigma_holds_come_back_bit_for_bit_and_only_while_they_belong(tmp_path: Path) -> None:
    checkpoint = seeded_checkpoint("resnet50", NO_HEAD)
    norm = checkpoint.arrays["conv5_1_3x3_bn"]
    norm["moving_variance"][:5] = [1e-9, -9e-6, 0.0, 1e-42, 3.9999998]
    path = write(checkpoint, tmp_path / "x.mat").path
    again = read_checkpoint(path)
    assert np.array_equal(again.arrays["conv5_1_3x3_bn"]["moving_variance"], norm["moving_variance"])
    assert not again.provenance.notes
    # Fine-tuned in MATLAB: the moments change, and meta, which MatConvNet carries along, does not.
    net = scipy.io.loadmat(path)
    for param in net["params"][0]:
        if param["name"][0] == "conv5_1_3x3_bn_moments":
            param["value"][:, 1] *= np.float32(1.5)
            sigma = param["value"][:, 1].astype(np.float64)
    for layer in net["layers"][0]:
        if layer["block"].dtype.names is None:  # SciPy's reading of a struct without fields, which it cannot write
            layer["block"] = {}
    kept = {name: value for name, value in net.items() if not name.startswith("__")}
    scipy.io.savemat(tmp_path / "y.mat", kept, long_field_names=True)
    tuned = read_checkpoint(tmp_path / "y.mat")
    found = tuned.arrays["conv5_1_3x3_bn"]["moving_variance"]
    assert np.array_equal(found, (sigma**2 - 1e-5).astype(np.float32))
    assert any("conv5_1_3x3_bn were changed" in note for note in tuned.provenance.notes)


def test_the_file_is_mapped_and_not_copied(tmp_path: Path) -> None:
    path = write(seeded_checkpoint("resnet50", NO_HEAD), tmp_path / "x.mat").path
    kernel = read_checkpoint(path).arrays["conv5_3_3x3"]["kernel"]
    assert not kernel.flags.writeable and not kernel.flags.owndata and MappedFile(path).size > kernel.nbytes


def test_without_scipy_a_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(OutputError, match="pip install scipy"):
        write(seeded_checkpoint("resnet50", NO_HEAD), tmp_path / "x.mat")
    assert not list(tmp_path.iterdir())


def test_all_the_way_through_matlab_and_back_every_bit_is_the_same(tmp_path: Path) -> None:
    first = write(seeded_checkpoint("senet50", steps=7), tmp_path / "a.safetensors").path
    for source, target in (
        ("a.safetensors", "b.mat"),
        ("b.mat", "c.h5"),
        ("c.h5", "d.mat"),
        ("d.mat", "e.safetensors"),
    ):
        convert(tmp_path / source, [tmp_path / target])
    before, after = load_file(first), load_file(tmp_path / "e.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert read_checkpoint(tmp_path / "e.safetensors").provenance.origin == read_checkpoint(first).provenance.origin
