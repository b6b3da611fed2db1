"""One graph held against another, from the image to the last output: which node is which, and where the two part.

Names are hints. A node of theirs is the counterpart of one of ours when it does the same, with arrays of the same
shapes, to the counterparts of what ours takes. The walk does not end at the first departure, so that a model with one
fault is still paired around it; the first departure is the cause of most that follow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ferplus_keras.graph.form import Graph, Node
from ferplus_keras.networks.preprocessing import PUBLISHED
from ferplus_keras.wording import only_output

#: float32's rounding of an epsilon or a mean: some versions of Keras write 1.0000000474974513e-05.
ROUNDING = 1e-6

#: What may stand behind the last of our nodes: the softmax of a classifier, a pooling of features without a head.
TAILS = {"convolution": ("softmax",), "relu": ("average", "global maximum")}

#: Operations of ours: a search for a counterpart goes through any others, and not through these.
OURS = ("convolution", "normalisation", "relu", "sigmoid", "maximum", "average", "multiply", "add")

#: Attributes of departures that are arrays.
ROLES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")

#: How many nodes of theirs may stand where none should and the walk still finds its way.
MAX_DETOUR = 4


@dataclass(frozen=True)
class Departure:
    """Where two graphs part. ``attribute`` is empty where it is the node itself that differs."""

    node: str  #: ours, or theirs where ours has none
    attribute: str
    theirs: str
    ours: str
    sentence: str
    where: str = "within"  #: "before" the first of our nodes, "within", or "behind" the last

    def __str__(self) -> str:
        return self.sentence


@dataclass
class Match:
    """The outcome. ``pairs`` maps keys of our nodes to keys of theirs; ``by`` says how each was found.

    ``by`` has "name", "structure", or "order" where several alike stand at one place: a guess.
    """

    ours: Graph
    theirs: Graph
    pairs: dict[str, str] = field(default_factory=dict)
    by: dict[str, str] = field(default_factory=dict)
    departures: list[Departure] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)  #: keys of their nodes that are none of ours
    preprocessed: bool = False  #: whether theirs takes the published mean off by itself
    probabilities: bool = False  #: whether a softmax ends theirs
    place: int = 0  #: of the output that is ours among theirs

    @property
    def output(self) -> str:
        """What the file calls the output that is ours."""
        return self.theirs.names[self.place]

    @property
    def note(self) -> str:
        """What to say where the file has outputs that yield something else; empty where it has none."""
        ours, named = self.theirs.outputs[self.place], dict(zip(self.theirs.names, self.theirs.outputs))  # noqa: B905
        others = [name for name, key in named.items() if key != ours]
        return only_output(self.output, others) if others else ""

    @property
    def departure(self) -> Departure | None:
        return self.departures[0] if self.departures else None

    @property
    def graph_departure(self) -> Departure | None:
        """The first that is not about an array: those that are missing or of other shapes are best told all at once."""
        return next((each for each in self.departures if each.attribute not in ROLES), None)

    def owner(self, ours: str) -> str:
        """The file's own name for a node of ours."""
        return self.theirs.nodes[self.pairs[ours]].name


def match(ours: Graph, theirs: Graph) -> Match:
    """``theirs`` held against ``ours``, a network of this project."""
    return _Walk(ours, theirs).matched()


class _Walk:
    def __init__(self, ours: Graph, theirs: Graph) -> None:
        self.ours, self.theirs = ours, theirs
        self.result = Match(ours, theirs)
        self.taken: set[str] = set()
        self.place: dict[str, str] = {}  # our node -> theirs whose output stands for ours, paired or not

    def matched(self) -> Match:
        if len(self.theirs.inputs) != 1 or not self.theirs.outputs:
            said = f"it has {len(self.theirs.inputs)} inputs and {len(self.theirs.outputs)} outputs"
            self._depart("data", "", "", "", f"{said}, and these networks have one image and one output")
            return self.result
        self._input()
        for key, node in self.ours.nodes.items():
            if node.inputs:
                self._pair(key, node)
        self._ending()
        return self.result

    def _input(self) -> None:
        (ours,), (theirs,) = self.ours.inputs, self.theirs.inputs
        self._take(ours, theirs, "name")
        behind = self.theirs.consumers.get(theirs, [])
        if len(behind) == 1 and _alike(self.theirs.nodes[behind[0]].attributes.get("mean"), PUBLISHED.mean):
            self.result.preprocessed = True
            self.taken.add(behind[0])
            self.place[ours] = behind[0]

    def _pair(self, key: str, node: Node) -> None:
        wanted = sorted(self.place[each] for each in node.inputs)
        here = [each for each in self._behind(wanted[0]) if self.theirs.nodes[each].operation == node.operation]
        fed = [each for each in here if sorted(self.theirs.nodes[each].inputs) == wanted]
        exact = [each for each in fed if not list(differences(node, self.theirs.nodes[each]))]
        named = [each for each in exact if self.theirs.nodes[each].name == node.name]
        if exact:
            chosen = (named or exact)[0]
            self._take(key, chosen, "name" if named else "structure" if len(exact) == 1 else "order")
            if not named and len(exact) > 1:
                alike = " and ".join(self.theirs.nodes[each].name for each in exact[:2])
                self._depart(node.name, "place", alike, "", f"{alike} could each be {node.name}: nothing tells which")
        elif fed := [each for each in fed if not self._is_anothers(key, node, each)]:
            self._nearly(key, node, fed)
        elif len(node.inputs) > 1 and (here := self._merging(node)):
            self._rewired(key, node, here[0], wanted)
        else:
            self._astray(key, node, wanted[0])

    def _is_anothers(self, key: str, node: Node, theirs: str) -> bool:
        """Whether it is just what another of our nodes is that takes the same: the other branch of a block."""
        rest = (n for k, n in self.ours.nodes.items() if k != key and n.inputs == node.inputs and k not in self.place)
        alike = (each for each in rest if each.operation == node.operation)
        return any(not list(differences(each, self.theirs.nodes[theirs])) for each in alike)

    def _nearly(self, key: str, node: Node, fed: list[str]) -> None:
        """The counterpart has another attribute, or arrays of other shapes."""
        rank = {each: len(list(differences(node, self.theirs.nodes[each]))) for each in fed}
        named = [each for each in fed if self.theirs.nodes[each].name == node.name]
        chosen = (named or sorted(fed, key=rank.__getitem__))[0]
        for attribute, have, want in differences(node, self.theirs.nodes[chosen]):
            who = self._called(chosen, node)
            said = f"{who} has {attribute} {have}, and {want} in these networks"
            if not want:
                said = f"{who} has {have}, which it has not in these networks"
            elif not have:
                said = f"{who} has no {attribute}, and {want} in these networks"
            self._depart(node.name, attribute, have, want, said)
        self._take(key, chosen, "name" if named else "structure")

    def _merging(self, node: Node) -> list[str]:
        """Nodes of the operation, on any of its inputs."""
        found = [each for source in node.inputs for each in self._behind(self.place[source])]
        return [each for each in found if self.theirs.nodes[each].operation == node.operation]

    def _rewired(self, key: str, node: Node, chosen: str, wanted: list[str]) -> None:
        have, want = (self._names(each) for each in (self.theirs.nodes[chosen].inputs, wanted))
        who = self._called(chosen, node)
        self._depart(node.name, "inputs", have, want, f"{who} is fed by {have}, and by {want} in these networks")
        self._take(key, chosen, "structure")

    def _astray(self, key: str, node: Node, source: str) -> None:
        """No counterpart where one belongs: something stands between, or in its stead, or it is missing."""
        before = self.theirs.nodes[source].name
        strange = [each for each in self._behind(source) if self.theirs.nodes[each].operation not in OURS]
        behind, found = source, ""
        for _ in range(MAX_DETOUR):
            between = [each for each in self._behind(behind) if self.theirs.nodes[each].operation not in OURS]
            if not between:
                break
            behind = between[0]
            found = next((e for e in self._behind(behind) if self.theirs.nodes[e].operation == node.operation), "")
            if found:
                break
        what = f"{node},"
        if strange:
            other = str(self.theirs.nodes[strange[0]])
            if self.theirs.nodes[strange[0]].operation == "zeros" and not found:
                other = next((str(self.theirs.nodes[each]) for each in self._behind(strange[0])), other)
            place = "before" if node.inputs == self.ours.inputs else "within"
            self._depart(node.name, "", other, node.kind, f"where {what} belongs stands {other}", place)
        if found:
            self.taken.update(strange[:1])
            self.result.left_over += strange[:1]
            self._nearly(key, node, [found])
        elif strange and node.operation in ("relu", "sigmoid"):
            self._take(key, strange[0], "structure")  # another activation in its stead
        else:
            if not strange:
                follows = " and ".join(str(self.theirs.nodes[each]) for each in self._behind(source)[:2])
                said = f"what follows {before} is {follows}" if follows else f"nothing follows {before}"
                self._depart(node.name, "", follows, node.kind, f"{what} is not there: {said}")
            self.place[key] = source

    def _ending(self) -> None:
        """Everything that the outputs depend on must be ours by now, but for a softmax and the like at the end."""
        (last,) = self.ours.outputs
        end = self.place[last]
        tails = TAILS.get(self.ours.nodes[last].operation, ())
        if tails and set(self.ours.nodes[last].arrays) == {"kernel"}:
            tails = ()  # features of a dense layer without bias: nobody's classes
        for key in self.theirs.consumers.get(end, []):
            if self.theirs.nodes[key].operation in tails and key not in self.taken:
                self.taken.add(key)
                self.result.probabilities = self.theirs.nodes[key].operation == "softmax"
                end = key
                break
        left = [key for key in self.theirs.nodes if key not in self.taken]
        self.result.left_over += left
        for key in left[:1]:
            node = self.theirs.nodes[key]
            said = f"{node}, has no place in these networks: it takes {self._names(node.inputs) or 'no input'}"
            if len(self.theirs.outputs) > 1:
                said += f"; the outputs are {' and '.join(self.theirs.names)}"
            self._depart(node.name, "", str(node), "", said, "behind" if key in self._after(end) else "within")
        if end in self.theirs.outputs:
            self.result.place = self.theirs.outputs.index(end)
        elif not left:
            names = " and ".join(self.theirs.names)
            self._depart(last, "output", names, last, f"its output is {names}, and {last} in these networks", "behind")

    def _after(self, end: str) -> set[str]:
        """Their nodes that depend on ``end``."""
        after = {end}
        for key, node in self.theirs.nodes.items():
            if not after.isdisjoint(node.inputs):
                after.add(key)
        return after - {end}

    # --- small things -----------------------------------------------------------------------------------------------

    def _take(self, ours: str, theirs: str, by: str) -> None:
        self.result.pairs[ours] = self.place[ours] = theirs
        self.result.by[ours] = by
        self.taken.add(theirs)

    def _behind(self, key: str) -> list[str]:
        return [each for each in self.theirs.consumers.get(key, []) if each not in self.taken]

    def _called(self, theirs: str, node: Node) -> str:
        name = self.theirs.nodes[theirs].name
        return name if name == node.name else f"{name} (which is {node.name})"

    def _names(self, keys: Any) -> str:
        return " and ".join(self.theirs.nodes[key].name for key in keys)

    def _depart(self, node: str, attribute: str, theirs: str, ours: str, sentence: str, where: str = "within") -> None:
        self.result.departures.append(Departure(node, attribute, theirs, ours, sentence[:300], where))


def differences(ours: Node, theirs: Node) -> Iterator[tuple[str, str, str]]:
    """(attribute, theirs, ours) of what the two have not in common; "" where one has none."""
    for role in {**ours.arrays, **theirs.arrays}:
        have, want = (node.arrays.get(role) for node in (theirs, ours))
        if want is None and role == "bias" and not _numbers(have).any():
            continue  # a bias of zeros does nothing
        shapes = ["" if each is None else _shape(each) for each in (have, want)]
        if shapes[0] != shapes[1]:
            yield role, f"a {role} of {shapes[0]}" if want is None else shapes[0], shapes[1]
    for name in {**ours.attributes, **theirs.attributes}:
        have, want = theirs.attributes.get(name), ours.attributes.get(name)
        if not _alike(have, want):
            yield name, shown(name, have) or "none", shown(name, want) or "none"


def _numbers(array: Any) -> np.ndarray:
    """Its numbers, whether they were read before or not; ones where it has none."""
    if isinstance(array, np.ndarray):
        return array
    return np.asarray(array.read() if hasattr(array, "read") else np.ones(1))


def _shape(array: Any) -> str:
    """Without the first two extents of a 1 x 1 kernel, which as a dense layer has none."""
    shape = tuple(array.shape)
    shape = shape[2:] if len(shape) == 4 and shape[:2] == (1, 1) else shape
    return " x ".join(map(str, shape)) or "no shape"


def _alike(have: Any, want: Any) -> bool:
    if isinstance(have, tuple) and isinstance(want, tuple):
        return len(have) == len(want) and all(map(_alike, have, want))
    if isinstance(have, float) and isinstance(want, (float, int)):
        return math.isclose(have, want, rel_tol=ROUNDING)
    return bool(have == want)


def shown(attribute: str, value: Any) -> str:
    """An attribute's value as a sentence has it."""
    if attribute == "padding" and isinstance(value, tuple):
        if len(set(value)) == 1:
            return f"{value[0]} on each side"
        return "{} above, {} below, {} on the left, {} on the right".format(*value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return (" x " if len(value) == 2 else ", ").join(shown("", each) for each in value)
    return "" if value is None else str(value)[:80]
