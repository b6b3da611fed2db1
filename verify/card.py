"""How every model card begins: what the Hugging Face hub reads, what the network does, and how it is asked."""

from __future__ import annotations

from collections.abc import Sequence


def opening(title: str, classes: Sequence[str], side: int, file: str | None) -> list[str]:
    """The first lines of a model card.

    ``side``: of the images, in pixels; ``file``: the network's, beside the card; None where none can be run as it is.
    """
    snippet = [
        "```python", "import ferplus_keras", "",
        f'print(ferplus_keras.EmotionClassifier("{file}").predict("face.png").emotion)', "```", "",
    ]  # fmt: skip
    return [
        "---", "library_name: keras", "pipeline_tag: image-classification", "tags:", "- facial-expression-recognition",
        "- ferplus", "---", "", f"# {title[0].upper()}{title[1:]}", "",
        f"Classifies a cropped face of {side} x {side} pixels as one of {len(classes)} expressions: "
        f"{', '.join(classes)}.", "",
        *(snippet if file else ()),
    ]  # fmt: skip
