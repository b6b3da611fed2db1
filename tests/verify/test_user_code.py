"""A user's own ``*_dag.py`` as the reference: run when named, held to the checkpoint, refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.readers import read_checkpoint
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import architecture
from tests.conftest import run_ferplus
from tests.convert.test_foreign_names import TORCHVISION
from verify.parity import ParityOptions, check_parity
from verify.references.torch_reference import TorchReference
from verify.references.user_code import UserCodeReference

pytestmark = pytest.mark.usefixtures("small")


def dag_code(network: str, *, stride_on_3x3: bool = False) -> str:
    """A file in the manner of the published ones: one module for each layer, a forward pass spelled out."""
    lines = ["import torch", "import torch.nn as nn", "", "", f"class {network.capitalize()}_dag(nn.Module):", ""]
    lines += ["    def __init__(self):", "        super().__init__()"]
    body = []
    for layer in architecture(network).layers:
        name, inputs = layer.name, ", ".join(layer.inputs)
        match layer:
            case arch.Conv():
                stride = layer.stride
                if stride_on_3x3 and name == "conv3_1_1x1_reduce":
                    stride = 1
                if stride_on_3x3 and name == "conv3_1_3x3":
                    stride = 2
                sizes = f"{layer.in_channels}, {layer.out_channels}, {layer.kernel}"
                made = f"nn.Conv2d({sizes}, {stride}, {layer.padding}, bias={layer.bias})"
            case arch.BatchNorm():
                made = f"nn.BatchNorm2d({layer.channels})"
            case arch.ReLU():
                made = "nn.ReLU()"
            case arch.Sigmoid():
                made = "nn.Sigmoid()"
            case arch.MaxPool():
                made = "nn.MaxPool2d(3, 2, padding=0, ceil_mode=True)"
            case arch.AveragePool():
                made = "nn.AvgPool2d(7, 1)"
            case arch.GlobalPool():
                made = "nn.AdaptiveAvgPool2d(1)"
            case arch.Linear():
                made = f"nn.Conv2d({layer.in_channels}, {layer.units}, 1)"
            case arch.Scale():
                body.append(f"        {name} = torch.mul({layer.inputs[1]}, {layer.inputs[0]})")
                continue
            case arch.Add():
                body.append(f"        {name} = torch.add({inputs})")
                continue
            case _:
                continue
        lines.append(f"        self.{name} = {made}")
        body.append(f"        {name} = self.{name}({inputs})")
    end = "        return classifier.view(classifier.size(0), -1)"
    return "\n".join([*lines, "", "    def forward(self, data):", *body, end, ""])


@pytest.mark.slow
def test_the_published_kind_of_file_is_the_same_function(
    network: str, standin_pth: Path, standin_h5: Path, tmp_path: Path
) -> None:
    code = tmp_path / f"{network}_dag.py"
    code.write_text(dag_code(network))
    result = check_parity(standin_h5, standin_pth, ParityOptions(images=1, dtypes=("float64",), reference_code=code))
    assert result.passed and [run.reference for run in result.runs] == ["torch", "code"]
    theirs = result.runs[1]
    compared = [each.layer for each in theirs.layers]
    sums = sum(isinstance(layer, arch.Add | arch.Scale) for layer in architecture(network).layers)
    assert len(compared) == len(architecture(network).layers) - 1 - sums  # sums are no modules, and cannot be seen
    assert theirs.logits.relative <= 1e-12
    assert [known["independent"] for known in result.references] == [False, True]


def test_its_own_layers_count_and_not_ours(standin_pth: Path, tmp_path: Path) -> None:
    """A reference with another stride yields other numbers: it is really that file that runs."""
    checkpoint = read_checkpoint(standin_pth)
    network = checkpoint.architecture.network
    code = tmp_path / "other_dag.py"
    code.write_text(dag_code(network, stride_on_3x3=True))
    image = np.random.default_rng(0).normal(0, 50, (1, 224, 224, 3))
    theirs = UserCodeReference(checkpoint, "float64", code).run(image)
    ours = TorchReference(checkpoint, "float64").run(image)
    assert theirs["conv3_1_1x1_reduce"].shape != ours["conv3_1_1x1_reduce"].shape
    assert not np.allclose(theirs["classifier"], ours["classifier"], rtol=1e-3)


#: A class of the checkpoint's tensors that takes no input at all; what it returns is put in by the test.
HOLLOW = """
import torch
from torch import nn
from ferplus_keras.networks.architecture import architecture
from ferplus_keras.networks.torch_module import ReferenceNetwork

class Block(nn.Module):
    pass

class Net(ReferenceNetwork):
    def __init__(self):
        super().__init__(architecture("resnet50"))
    def forward(self, x):
        logits, features = torch.arange(8.0)[None], torch.ones(1, 2048)
        return {returned}

class Trainer(nn.Module):
    def __init__(self, backbone, classes):
        super().__init__()
"""


@pytest.mark.parametrize(
    "returned", ["logits", "(features, logits)", "{'f': features, 'p': [logits]}", "logits[:, :, None, None]"]
)
def test_the_class_that_fits_is_taken_and_the_logits_among_what_it_returns(
    returned: str, seeded_pth: Path, tmp_path: Path
) -> None:
    path = tmp_path / "code.py"
    path.write_text(HOLLOW.replace("{returned}", returned))
    reference = UserCodeReference(read_checkpoint(seeded_pth), "float32", path)
    assert reference.title == "PyTorch, Net of code.py"
    found = reference.run(np.zeros((1, 224, 224, 3)))
    np.testing.assert_array_equal(found["classifier"], np.arange(8.0)[None, None, None])
    assert ("returns 1 x 2048 and 1 x 8, of which the 8 numbers" in reference.note) == ("features" in returned)


@pytest.mark.parametrize(
    ("returned", "told"),
    [("features, features.sum()", "1 x 2048 and a single number, of which none"),
     ("logits, logits[:, [1, 0, 2, 3, 4, 5, 6, 7]]", "1 x 8 and 1 x 8, of which more than one")],
)  # fmt: skip
def test_a_forward_without_logits_is_no_verdict_on_the_geometry(
    returned: str, told: str, seeded_pth: Path, tmp_path: Path
) -> None:
    path = tmp_path / "code.py"
    path.write_text(HOLLOW.replace("{returned}", returned))
    reference = UserCodeReference(read_checkpoint(seeded_pth), "float32", path)
    with pytest.raises(BadInputError, match=f"returns {told} is 8 numbers an image"):
        reference.run(np.zeros((1, 224, 224, 3)))


TORCHVISIONS = """
from torch import nn
from ferplus_keras.networks.architecture import architecture
from ferplus_keras.networks.torch_module import ReferenceNetwork

class Port(nn.Module):
    def __init__(self, num_classes=1000):
        super().__init__()
        for name, module in ReferenceNetwork(architecture("resnet50")).named_children():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d) and name != "classifier":
                *path, last = NAMES[name].split(".")
                parent = self
                for part in path:
                    if part not in parent._modules:
                        parent.add_module(part, nn.Module())
                    parent = parent.get_submodule(part)
                parent.add_module(last, module)
        self.fc = nn.Linear(architecture("resnet50").features, num_classes)
"""


def test_a_network_with_torchvisions_names_takes_the_tensors(seeded_pth: Path, tmp_path: Path) -> None:
    names = {name.removesuffix(".weight"): theirs.removesuffix(".weight")
             for name, theirs in TORCHVISION.items() if name.endswith(".weight")}  # fmt: skip
    path = tmp_path / "port.py"
    path.write_text(f"NAMES = {names!r}\n{TORCHVISIONS}")
    checkpoint = read_checkpoint(seeded_pth)
    module = UserCodeReference(checkpoint, "float32", path).module
    np.testing.assert_array_equal(module.fc.weight.detach().numpy().T, checkpoint.arrays["classifier"]["kernel"])
    shortcut = module.layer2.get_submodule("0.downsample.0").weight.detach().numpy()
    np.testing.assert_array_equal(shortcut.transpose(2, 3, 1, 0), checkpoint.arrays["conv3_1_1x1_proj"]["kernel"])


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("x = 1", "no torch.nn.Module"),
        ("import torch\nclass A(torch.nn.Module):\n    pass", "same tensors"),
        ("this is no python", "SyntaxError"),
    ],
)
def test_code_that_is_no_reference_is_refused(code: str, told: str, seeded_pth: Path, tmp_path: Path) -> None:
    path = tmp_path / "x_dag.py"
    path.write_text(code)
    with pytest.raises(BadInputError, match=told):
        UserCodeReference(read_checkpoint(seeded_pth), "float32", path)
    with pytest.raises(BadInputError, match="no reference code"):
        UserCodeReference(read_checkpoint(seeded_pth), "float32", tmp_path / "absent.py")


@pytest.mark.slow
def test_a_file_beside_the_checkpoint_is_not_run(seeded_pth: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    checkpoint = tmp_path / "resnet50_ferplus_dag.pth"
    checkpoint.write_bytes(seeded_pth.read_bytes())
    (tmp_path / "resnet50_ferplus_dag.py").write_text(f"open({str(canary)!r}, 'w')")
    assert run_ferplus("convert", checkpoint, tmp_path / "x.h5").returncode == 0
    run_ferplus("verify", "parity", tmp_path / "x.h5", "--against", checkpoint, "--n", 1, "--no-onnx")
    assert not canary.exists()
