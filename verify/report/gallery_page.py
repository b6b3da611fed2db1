"""A gallery as an HTML page: faces, bars of probabilities beside the votes, heat maps. One file, nothing loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ferplus_keras import __version__
from ferplus_keras.dataset import VOTE_COLUMNS, Dataset
from ferplus_keras.dataset.protocols import Protocol
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.wording import counted, percent
from verify.gallery import Looks, Network, groups
from verify.report import numbers, parts
from verify.report.page import Fact, Page, Section, Verdict, html, render

if TYPE_CHECKING:
    from markupsafe import Markup

STANDIN = (
    "Made-up weights with the published names, shapes and format. The network was never trained: its emotions and its "
    "heat maps mean nothing, and show only what this page looks like."
)

#: Pixels a side of a heat map's image, and its colours from cold to hot: red, green, blue, opacity.
HEAT_SIDE = 56
COLORS = np.array(
    [(40, 60, 140, 0), (60, 90, 190, 60), (170, 60, 160, 120), (240, 110, 60, 165), (255, 225, 90, 190)], np.float64
)


def gallery_page(
    looks: Looks, network: Network, dataset: Dataset, protocol: Protocol, split: str, command: str, created: str
) -> Page:
    """The page of ``looks``."""
    sections = [
        Section(group.id, group.title, _cards(looks, dataset, group.indices, legend=not place), group.text)
        for place, group in enumerate(groups(looks))
    ]
    sections += [
        Section("reading", "How to read this", _reading(looks.said.shape[1])),
        Section("about", "The network and the data", _about(network, dataset, protocol, split, looks)),
        Section("repeat", "How to repeat this", parts.command(command)),
    ]
    return Page(
        kind=f"Faces of FERPlus, {split}",
        subject=network.path.name,
        verdict=_verdict(looks, network, protocol, split),
        sections=sections,
        standin=STANDIN if network.standin else "",
        footer=(f"Written by ferplus-keras {__version__} on {numbers.moment(created)}.",),
        style="gallery.css",
    )


def _verdict(looks: Looks, network: Network, protocol: Protocol, split: str) -> Verdict:
    right, wrong = looks.correct, ~looks.correct
    share = float(right.mean())
    overlap = float(np.minimum(looks.probabilities, looks.distribution).sum(axis=1).mean())
    facts = [
        Fact("Right", percent(share), f"{int(right.sum()):,} of {counted(len(right), 'image')}"),
        Fact("Confidence when right", _mean(looks.confidence[right]), "mean probability of its decision"),
        Fact("Confidence when wrong", _mean(looks.confidence[wrong]), "the lower the better"),
        Fact("Agrees with the votes", percent(overlap, 1), "overlap of the two distributions, on average"),
    ]
    sentence = html(
        "What <code>{}</code> sees in {} of the {} split, protocol <strong>{}</strong>: its probabilities "
        "beside people's votes, and where in the face they come from.",
        network.path.name, counted(len(right), "image"), split, protocol.name,
    )  # fmt: skip
    return Verdict(None, f"{percent(share, 1)} right, face by face", sentence, facts)


def _cards(looks: Looks, dataset: Dataset, indices: Any, *, legend: bool) -> Markup:
    return render("gallery.html.j2", cards=[_card(looks, dataset, index) for index in indices], legend=legend)


def _mean(values: np.ndarray) -> str:
    return percent(float(values.mean()), 1) if len(values) else "-"


def _card(looks: Looks, dataset: Dataset, index: int) -> dict[str, Any]:
    row, label, decision = int(looks.rows[index]), int(looks.labels[index]), int(looks.decisions[index])
    shown = [decision] if label == decision else [decision, label]
    heats = [
        {"emotion": EMOTIONS[each], "source": parts.image_source(_heat_pixels(looks.heat(index, each))),
         "decided": each == decision}
        for each in shown
    ]  # fmt: skip
    bars = [
        {
            "name": name,
            "predicted": 100 * float(looks.probabilities[index, place]),
            "voted": 100 * float(looks.distribution[index, place]),
            "decided": place == decision,
            "label": place == label,
        }
        for place, name in enumerate(EMOTIONS)
    ]
    votes = sorted(zip(VOTE_COLUMNS, dataset.votes[row].tolist(), strict=True), key=lambda pair: -pair[1])
    counts = ", ".join(f"{'no face' if name == 'NF' else name} {count}" for name, count in votes if count)
    return {
        "name": dataset.names[row],
        "face": parts.image_source(dataset.images[row]),
        "heats": heats,
        "bars": bars,
        "wrong": label != decision,
        "decision": EMOTIONS[decision],
        "label": EMOTIONS[label],
        "confidence": percent(float(looks.confidence[index]), 1).replace(" ", "\N{NO-BREAK SPACE}"),
        "votes": counts,
    }


def _heat_pixels(heat: np.ndarray) -> np.ndarray:
    """A map as an image to lay over the face; its own largest value is the hottest."""
    from PIL import Image

    top = float(heat.max())
    scaled = heat / top if top > 0 else np.zeros_like(heat)
    smooth = Image.fromarray(scaled.astype(np.float32)).resize((HEAT_SIDE, HEAT_SIDE), Image.Resampling.BICUBIC)
    place = np.clip(np.asarray(smooth), 0, 1) * (len(COLORS) - 1)
    below = np.minimum(place.astype(int), len(COLORS) - 2)
    share = (place - below)[..., None]
    pixels: np.ndarray = np.rint(COLORS[below] * (1 - share) + COLORS[below + 1] * share).astype(np.uint8)
    return pixels


def _reading(side: int) -> Markup:
    return html(
        '<div class="prose"><p>Blue, or red where it is wrong, is what the network says; grey is what the votes say '
        "under the protocol. Beside the face as it is stands the same face under a heat map.</p>"
        "<p>The heat is Grad-CAM's, and here it is exact. Behind the last feature map, {} places of {} channels, the "
        "network has only an average and a linear classifier: the logit of an emotion is the sum of what the {} places "
        "say for it, and a bias. What speaks for it is shown, the hottest place of each image in yellow; what speaks "
        "against it is cut off. Each place sees far more of the image than its own square, so an edge of the heat is "
        "no edge in the face.</p></div>",
        f"{side} x {side}", "2,048", side**2,
    )  # fmt: skip


def _about(network: Network, dataset: Dataset, protocol: Protocol, split: str, looks: Looks) -> Markup:
    provenance = network.provenance
    return parts.facts(
        [
            ("File", f"{network.path.name}, SHA-256 {network.sha256}"),
            ("Network", f"{provenance.network}, from {provenance.source.name}"),
            ("Run by", network.by),
            ("Images", f"{len(looks.rows):,} of the {split} split, from {dataset.origin}"),
            ("Protocol", f"{protocol.name}: {protocol.title}. {protocol.text}"),
            ("Chosen", "by these rules alone: surest first, ties in the order of the data set"),
        ]
    )
