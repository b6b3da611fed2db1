"""The page for the browser: built of known bytes, the same twice, and in Chromium it says what Python says."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convert import webpage
from convert.readers import read_checkpoint
from convert.webpage import unpacked, vendored, write_webpage
from ferplus_keras import EmotionClassifier
from ferplus_keras.cli import main
from ferplus_keras.errors import BadInputError, DownloadError
from ferplus_keras.files.shipped import default_shipped, shipped
from ferplus_keras.networks.emotions import EMOTIONS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def write_onnx(
    path: Path, side: int, *, first: bool, softmax: bool, features: bool = False, total: float | None = None
) -> Path:
    """A network of one convolution, which tells images apart by where they are bright; it may yield features too.

    What comes out of its softmax adds up to ``total``, if that is given.
    """
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(1)
    image = [None, 3, side, side] if first else [None, side, side, 3]
    nodes = [] if first else [onnx.helper.make_node("Transpose", ["images"], ["turned"], perm=[0, 3, 1, 2])]
    nodes += [
        onnx.helper.make_node("Conv", ["images" if first else "turned", "kernel"], ["map"], strides=[8, 8]),
        onnx.helper.make_node("Relu", ["map"], ["bright"]),
        onnx.helper.make_node("GlobalAveragePool", ["bright"], ["means"]),
        onnx.helper.make_node("Flatten", ["means"], ["flat"]),
        onnx.helper.make_node("Gemm", ["flat", "matrix"], ["logits"]),
    ]
    if softmax:
        nodes.append(onnx.helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    if total is not None:
        nodes.append(onnx.helper.make_node("Mul", ["probabilities", "total"], ["scaled"]))
    arrays = {"kernel": rng.normal(0, 0.02, (16, 3, 8, 8)), "matrix": rng.normal(0, 0.1, (16, 8))}
    if total is not None:
        arrays["total"] = np.array(total)
    graph = onnx.helper.make_graph(
        nodes, "small",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, image)],
        [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, count])
            for name, count in (*[("flat", 16)] * features, (nodes[-1].output[0], 8))
        ],
        [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def package() -> Path:
    try:
        return vendored()
    except DownloadError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Enlarged, reduced, grey, with transparent pixels, and turned by what its EXIF data say."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)

    def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)

    made = {"large": noise(301, 222), "small": noise(20, 31), "grey": noise(48, 48, "L"), "turned": noise(60, 40)}
    see_through = noise(64, 64, "RGBA")
    see_through.putalpha(Image.fromarray(np.repeat(np.uint8([[0, 255]]), 64, 0).repeat(32, 1)))
    exif = Image.Exif()
    exif[0x112] = 6
    for name, image in made.items():
        image.save(folder / f"{name}.png", **({"exif": exif} if name == "turned" else {}))
    see_through.save(folder / "see-through.png")
    return sorted(folder.iterdir())


@pytest.fixture
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.slow  # packs ONNX Runtime Web
@pytest.mark.parametrize("kind", [
    "features and logits, channels first", "probabilities, channels last", "shipped",
])  # fmt: skip
def test_the_browser_says_what_python_says_and_loads_nothing(
    kind: str, package: Path, pictures: list[Path], browser: Any, tmp_path: Path
) -> None:
    network = None
    if kind != "shipped":
        last = kind.endswith("last")
        network = write_onnx(
            tmp_path / "small.onnx", 48 if last else 64, first=not last, softmax=last, features=not last
        )
    elif not shipped():
        pytest.skip("no trained network comes with this checkout")
    page = tmp_path / "page.html"
    notes = write_webpage(network, page, package)
    assert any("of its 2 outputs only" in note for note in notes) == kind.startswith("features")
    inside = network or default_shipped().path
    wanted = [each.probabilities for each in EmotionClassifier(inside).predict(pictures)]
    assert np.ptp([list(each.values()) for each in wanted], axis=0).max() > 0.1, "one answer to all would prove nothing"
    shown = browser.new_page()
    told, asked = _ask(shown, page, pictures)
    assert not shown.locator("#standin").is_visible()
    assert [each for each in asked if not each.startswith(("blob:", "data:"))] == [page.as_uri()]
    for path, found, right in zip(pictures, told, wanted, strict=True):
        assert list(found) == list(EMOTIONS) == list(right)
        assert found == pytest.approx(right, abs=2e-3), path.name


def _ask(page: Any, path: Path, pictures: list[Path]) -> tuple[list[dict[str, float]], list[str]]:
    """What the page says of each picture, and what it asked for on the way."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    said = page.locator("#said")
    said.filter(has_not_text="Loading").wait_for(timeout=60_000)
    assert said.text_content() == "Ready."
    told = []
    for each in pictures:
        page.set_input_files("#file", each)
        said.filter(has_text=f"{each.name}:").wait_for()
        rows = page.eval_on_selector_all(
            "#emotions tr", "all => all.map(e => [e.firstChild.textContent, Number(e.lastChild.dataset.value)])"
        )
        told.append(dict(rows))
    return told, asked


@pytest.mark.slow  # packs ONNX Runtime Web
def test_a_standin_says_so_beside_every_image(
    package: Path, pictures: list[Path], browser: Any, tmp_path: Path
) -> None:
    network, page = tmp_path / "small-standin.onnx", browser.new_page()
    write_webpage(write_onnx(network, 48, first=False, softmax=True), tmp_path / "page.html", package)
    _ask(page, tmp_path / "page.html", pictures[:1])
    assert page.get_by_text("STAND-IN: the weights are made up").is_visible()


@pytest.mark.slow  # packs ONNX Runtime Web
@pytest.mark.parametrize("said", [False, True], ids=["by the numbers", "by the card"])
def test_probabilities_add_up_to_1_as_in_python(
    said: bool, package: Path, pictures: list[Path], browser: Any, tmp_path: Path
) -> None:
    network = write_onnx(tmp_path / "small.onnx", 48, first=False, softmax=True, total=1.0008)
    if said:
        network.with_name("small.onnx.toml").write_text('input = "rgb 0..1 probabilities"\n')
    page, shown = tmp_path / "page.html", browser.new_page()
    write_webpage(network, page, package)
    (wanted,) = EmotionClassifier(network).predict(pictures[:1])
    ((found,), _) = _ask(shown, page, pictures[:1])
    assert found == pytest.approx(wanted.probabilities, abs=2e-3)
    assert sum(found.values()) == pytest.approx(1, abs=1e-6)
    if said:
        with pytest.raises(Exception, match="its numbers are not probabilities that sum to 1"):
            shown.evaluate("probabilities([0.9, 0.9])")


@pytest.mark.slow  # packs ONNX Runtime Web twice
def test_the_command_writes_the_same_page_twice(package: Path, tmp_path: Path) -> None:
    network = write_onnx(tmp_path / "small.onnx", 48, first=False, softmax=True)
    for name in ("one.html", "two.html"):
        assert main(["webpage", str(network), "--out", str(tmp_path / name), "--runtime", str(package)]) == 0
    one = (tmp_path / "one.html").read_bytes()
    assert one == (tmp_path / "two.html").read_bytes() and b"connect-src" not in one and len(one) < 8_000_000


def test_only_known_bytes_go_into_a_page(tmp_path: Path) -> None:
    other = tmp_path / "onnxruntime-web-1.30.0.tgz"
    with tarfile.open(other, "w:gz") as archive:
        for file, _ in webpage.FILES.values():
            info = tarfile.TarInfo(f"package/dist/{file}")
            info.size = 7
            archive.addfile(info, io.BytesIO(b"another"))
    with pytest.raises(BadInputError, match=r"is not the one in onnxruntime-web 1\.30\.0"):
        unpacked(other)


def links(path: Path) -> None:
    """The package's files as links to themselves."""
    with tarfile.open(path, "w:gz") as archive:
        for file, _ in webpage.FILES.values():
            info = tarfile.TarInfo(f"package/dist/{file}")
            info.type, info.linkname = tarfile.SYMTYPE, file
            archive.addfile(info)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.write_bytes(b"no archive"), r"npm's package .*\(it is not gzipped\)"),
        (lambda path: path.write_bytes(gzip.compress(bytes(3 << 20))), "unpacks to too many bytes"),
        (lambda path: path.write_bytes(gzip.compress(bytes(3000))[:-12]), "is not npm's package"),
        (links, "is missing"),
        (os.mkfifo, "a named pipe"),
    ],
    ids=["text", "bomb", "cut", "links", "pipe"],
)  # fmt: skip
def test_what_is_no_package_is_refused_at_once(
    make: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webpage, "MAX_UNPACKED", 1 << 20)
    make(tmp_path / "x.tgz")
    with pytest.raises(BadInputError, match=told):
        unpacked(tmp_path / "x.tgz")


@pytest.mark.parametrize(("npm", "told"), [(None, "npm, which provides"), ("/bin/npm", "npm could not download")])
def test_without_npm_it_says_what_to_do(
    npm: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FERPLUS_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(webpage.shutil, "which", lambda _: npm)
    monkeypatch.setattr(webpage.subprocess, "run", lambda *_a, **_k: subprocess.CompletedProcess([], 1))
    with pytest.raises(DownloadError, match=told):
        vendored()


def test_a_page_is_made_of_a_networks_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ONNX file is made aside, under the folder's name: it holds the same numbers."""
    shown = []
    monkeypatch.setattr(webpage, "_write", lambda made, *_: (shown.append((made.name, read_checkpoint(made))), ())[1])
    trained = default_shipped()
    write_webpage(trained.path.parent, tmp_path / "a.html")
    write_webpage(None, tmp_path / "a.html")
    for name, found in shown:
        assert name == f"{trained.name}.onnx" and found.provenance.side == trained.size
        assert found.provenance.output == "probabilities" and found.provenance.labels == EMOTIONS
        assert all(
            np.array_equal(array, found.arrays[layer][role])
            for layer, roles in trained.arrays().items() for role, array in roles.items()
        )  # fmt: skip


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    with pytest.raises(BadInputError, match=r"an export format, which cannot be converted back\. Name the checkpoint"):
        write_webpage(tmp_path / "a.tflite", tmp_path / "a.html")
