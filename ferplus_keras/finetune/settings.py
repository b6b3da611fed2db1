"""What a recipe's values are, section by section, and what each may be; :mod:`.recipe` reads and checks them.

Nothing here needs Keras: a recipe is refused before it is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Pair = tuple[float, float]


def one_of(*choices: str, default: str) -> Any:
    return field(default=default, metadata={"choices": choices})


def within(low: float, high: float, default: Any, *, open_end: bool = False) -> Any:
    """A number from ``low`` to ``high``; ``open_end`` leaves ``high`` itself out."""
    return field(default=default, metadata={"range": (low, high, open_end)})


def rising(default: Pair, highest: float = 1000.0) -> Any:
    """Two numbers, from and to, above 0 and at most ``highest``."""
    return field(default=default, metadata={"highest": highest})


@dataclass(frozen=True)
class DataSettings:
    """Which images are learned from, and what of."""

    #: A name of :data:`ferplus_keras.dataset.protocols.PROTOCOLS`; figures on Valid and Test go by it too.
    protocol: str = one_of(
        "albanie", "wtomin", "majority", "probability", "crossentropy", "multi_target", default="albanie"
    )
    #: Which images are learned from, where that is not ``protocol``: Microsoft's "crossentropy" keeps 1,760 more of
    #: Train than "albanie". Figures stay with ``protocol``. Empty: the same.
    train_protocol: str = one_of(
        "", "albanie", "wtomin", "majority", "probability", "crossentropy", "multi_target", default=""
    )
    #: What an image's target is; see :mod:`ferplus_keras.finetune.targets`.
    target: str = one_of("hard", "majority", "probability", "crossentropy", "multi_target", default="crossentropy")
    #: One factor a class, in the classes' order; empty for none.
    class_weights: tuple[float, ...] = ()
    label_smoothing: float = within(0.0, 1.0, 0.0, open_end=True)
    #: Alpha of the Beta distribution that pairs of images are mixed by (Zhang et al. 2018); 0 mixes none.
    mixup: float = within(0.0, 10.0, 0.0)
    #: With ``--teacher``: the share of the loss that is the cross-entropy against what the teacher says of the same
    #: augmented image (Hinton et al. 2015; Beyer et al. 2022); the rest is that against the target.
    teacher_share: float = within(0.0, 1.0, 0.7)
    #: Both networks' logits are divided by this before they are compared.
    temperature: float = within(0.1, 100.0, 1.0)


@dataclass(frozen=True)
class NetworkSettings:
    """The graph and which of it learns."""

    #: Side of the square input in pixels.
    size: int = within(32, 1024, 224)
    dropout: float = within(0.0, 1.0, 0.0, open_end=True)
    #: "published": where Albanie's networks had it, inside the last block; "head": before the classifier.
    dropout_place: str = one_of("published", "head", default="published")
    #: The first layer that learns, in the order of ``model.layers``: all before it are frozen. Empty: all learn.
    train_from: str = ""
    #: "train": statistics of the batch, except in frozen layers; "frozen": the start's statistics everywhere.
    batchnorm: str = one_of("train", "frozen", default="train")
    #: The last gamma of each residual block starts at 0, so that the block starts as the identity (Goyal et al. 2017).
    #: For networks that start from nothing.
    zero_init_residual: bool = False
    #: A penalty on the size of what learns, added to the loss: ``regularizer_factor`` times the sum of absolute values
    #: ("l1") or squares ("l2") of kernels, gammas and betas. Empty: none.
    regularizer: str = one_of("", "l1", "l2", default="")
    regularizer_factor: float = within(0.0, 1.0, 5e-4)
    #: Layer names or patterns (``conv5_*``) that it goes for; empty: all that learn.
    regularizer_layers: tuple[str, ...] = ()
    #: Biases of convolutions too.
    regularize_bias: bool = False


@dataclass(frozen=True)
class OptimizerSettings:
    """How the weights move."""

    name: str = one_of("sgd", "adam", "adamw", default="sgd")
    learning_rate: float = within(0.0, 100.0, 0.01)
    #: Of SGD.
    momentum: float = within(0.0, 1.0, 0.9, open_end=True)
    nesterov: bool = False
    #: Of Adam and AdamW.
    beta_1: float = within(0.0, 1.0, 0.9, open_end=True)
    beta_2: float = within(0.0, 1.0, 0.999, open_end=True)
    #: Decoupled from the gradient: each step shrinks kernels by learning rate x this. Biases, gammas and betas are
    #: left alone.
    weight_decay: float = within(0.0, 1.0, 0.0)
    #: Largest norm of all gradients together; 0 for no bound.
    clip_norm: float = within(0.0, 1e9, 0.0)
    #: The learning rate of everything but the classifier is multiplied by this.
    body_factor: float = within(0.0, 1000.0, 1.0)
    #: Layer name or pattern (``conv5_*``) -> factor in place of ``body_factor``; the last that fits counts.
    layer_factors: dict[str, float] = field(default_factory=dict)
    #: Batches whose gradients are added up before a step.
    accumulate: int = within(1, 4096, 1)
    #: Share of the old average in the exponential moving average of all weights; 0 for none.
    ema: float = within(0.0, 1.0, 0.0, open_end=True)


@dataclass(frozen=True)
class ScheduleSettings:
    """How the learning rate goes, and for how long."""

    epochs: int = within(1, 100_000, 100)
    kind: str = one_of("constant", "cosine", "step", "plateau", default="cosine")
    #: Epochs over which the rate climbs to its full value; not for "plateau".
    warmup_epochs: float = within(0.0, 1000.0, 0.0)
    #: Of "cosine": the rate ends at this share of its full value.
    final_factor: float = within(0.0, 1.0, 0.0)
    #: Of "step": after each of these epochs the rate is multiplied by ``step_factor``.
    step_epochs: tuple[int, ...] = ()
    step_factor: float = within(0.0, 1.0, 0.1)
    #: Of "plateau": by ``plateau_factor`` after this many epochs without a better figure on Valid.
    plateau_factor: float = within(0.0, 1.0, 0.5)
    plateau_patience: int = within(1, 100_000, 3)
    #: The figure that the plateau watches, where that is not ``monitor``. Empty: the same.
    plateau_monitor: str = one_of("", "accuracy", "loss", default="")
    #: Training ends after this many epochs without a better figure on Valid; 0: never.
    early_stop: int = within(0, 100_000, 0)
    #: The figure on Valid by which the best epoch is chosen, and which the early stop watches.
    monitor: str = one_of("accuracy", "loss", default="accuracy")


@dataclass(frozen=True)
class TrainingSettings:
    """How it is run."""

    batch: int = within(1, 65_536, 128)
    seed: int = within(0, 2**31 - 1, 0)
    #: "auto": mixed_bfloat16 where the GPU or the CPU computes in it, mixed_float16 on older GPUs, else float32.
    precision: str = one_of("auto", "float32", "mixed_bfloat16", "mixed_float16", default="auto")
    #: The same bits each time on the same machine; on a GPU that costs speed, so "auto" asks for it on a CPU only.
    deterministic: str = one_of("auto", "yes", "no", default="auto")


@dataclass(frozen=True)
class AugmentationSettings:
    """What is done to the images of a training step; the defaults do nothing."""

    #: Share of the images that are mirrored.
    flip: float = within(0.0, 1.0, 0.0)
    #: Share of the images that ``zoom``, ``shift``, ``rotation`` and ``skew`` are for.
    warped: float = within(0.0, 1.0, 1.0)
    #: From, to: the factor of enlargement, about a random place.
    zoom: tuple[float, float] = rising((1.0, 1.0))
    #: Moved by up to that share of its side, either way, on each axis; edges are repeated.
    shift: float = within(0.0, 1.0, 0.0)
    #: Degrees, counter-clockwise, one of these; or ``rotation_range``: any angle up to this, either way.
    rotation: tuple[float, ...] = ()
    rotation_range: float = within(0.0, 360.0, 0.0)
    #: Shear, one of these on each axis; or ``skew_range``: any up to that, either way.
    skew: tuple[float, ...] = ()
    skew_range: float = within(0.0, 10.0, 0.0)
    #: From, to: share of the image's area that is cut out and enlarged to the whole, and its width to height.
    crop_scale: tuple[float, float] = rising((1.0, 1.0), 1.0)
    crop_ratio: tuple[float, float] = rising((1.0, 1.0))
    #: Added, up to that share of white, either way; the result is clipped to 0..255.
    brightness: float = within(0.0, 1.0, 0.0)
    #: Multiplied by 1 more or less up to that.
    contrast: float = within(0.0, 1.0, 0.0)
    #: Share of the images that brightness and contrast are for.
    toned: float = within(0.0, 1.0, 1.0)
    #: Share of the images that lose a rectangle to the mean colour, and the rectangle's area, from, to.
    erased: float = within(0.0, 1.0, 0.0)
    erased_area: tuple[float, float] = rising((0.02, 0.2), 1.0)

    @property
    def geometric(self) -> bool:
        """Whether images are sampled anywhere but straight."""
        return bool(self.flip or self.cropping or self.warping)

    @property
    def cropping(self) -> bool:
        return self.crop_scale != (1.0, 1.0) or self.crop_ratio != (1.0, 1.0)

    @property
    def warping(self) -> bool:
        turned = self.zoom != (1.0, 1.0) or any(self.rotation) or any(self.skew) or self.rotation_range
        return bool(self.warped and (turned or self.skew_range or self.shift))

    @property
    def toning(self) -> bool:
        return bool(self.toned and (self.brightness or self.contrast))
