"""What becomes of a finished run: weights in every format with their provenance, accuracy, curves, a model card."""

from __future__ import annotations

import hashlib
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferplus_keras.files.shipped import TITLES
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.wording import percent
from verify.card import opening
from verify.scores import guesswork

if TYPE_CHECKING:
    from ferplus_keras.dataset import Dataset
    from ferplus_keras.finetune.examples import Part
    from ferplus_keras.finetune.folder import RunFolder
    from ferplus_keras.finetune.training import FinishedRun, Run


def release(
    run: Run, outcome: FinishedRun, folder: RunFolder, dataset: Dataset, formats: tuple[str, ...], data: str, say: Any
) -> dict[str, Any]:
    """Write the release of ``run`` into its folder and return what it is, as plain data.

    The best epoch was chosen on Valid; Test is looked at here, once: of a run that was released before, only what is
    missing is made again. ``data`` is where the user said that the data set lies. Raises :class:`OutputError`.
    """
    from convert.writers import write

    known = folder.read_release()
    before = {Path(each["path"]).name: each for each in known.get("files", [])}
    files: list[dict[str, Any]] = []
    for name, (weights, epoch) in outcome.kept.items():
        say.passing(f"writing {name} as {', '.join(formats)}")
        checkpoint = _checkpoint(run, folder, weights, epoch)
        for each in formats:
            path = folder.path / f"{name}.{each}"
            if path.name in before and path.exists():
                files.append(before[path.name] | {"path": str(path)})
            else:
                files.append(asdict(write(checkpoint, path)) | {"path": str(path)})
    say.passing("looking at Valid and Test")
    reported = run.examples.classes == EMOTIONS
    if known and (folder.accuracy.exists() or not reported):
        rates = known["accuracy"]
    elif reported:
        rates = _accuracy_report(Path(files[0]["path"]), run, folder, dataset, data, say)
    else:
        rates = _rates(run, outcome)
    made = {
        "folder": str(folder.path),
        "recipe": run.recipe.name,
        "epochs": len(outcome.history),
        "best_epoch": outcome.best_epoch,
        "reason": outcome.reason,
        "accuracy": rates,
        "accuracy_report": reported,
        "commonest": run.examples.valid.commonest,
        "waiting_for_data": max(row["waiting_for_data"] for row in outcome.history),
        "files": files,
    }
    if not (known and folder.card.exists()):  # somebody may have added to it
        folder.write_text(folder.card, _card(run, outcome, folder, made))
    folder.write_release(made)
    return made


def versions() -> dict[str, str]:
    """The libraries that took part, and this program."""
    from ferplus_keras import __version__
    from verify.result import versions as libraries

    return {"ferplus-keras": __version__, "python": sys.version.split()[0]} | libraries()


def _checkpoint(run: Run, folder: RunFolder, weights: Path, epoch: int) -> Any:
    """The weights of one epoch as a neutral checkpoint, with everything that is known of how they came about."""
    from convert.checkpoint import Checkpoint, Provenance, Source
    from ferplus_keras.files.hashing import sha256_of
    from ferplus_keras.finetune.state import arrays_by_layer
    from ferplus_keras.networks.architecture import architecture, classifier
    from ferplus_keras.networks.preprocessing import PUBLISHED

    table = architecture(run.network_name, classifier(len(run.examples.classes)))
    source = Source(weights.name, weights.stat().st_size, sha256_of(weights), "trained here")
    size, recipe = run.size, run.recipe
    training = {
        "recipe": recipe.name,
        "recipe_sha256": hashlib.sha256(recipe.to_toml().encode()).hexdigest(),
        "epoch": str(epoch),
        "seed": str(recipe.training.seed),
        "data": run.examples.fingerprint,
        "protocol": recipe.data.protocol if run.examples.classes == EMOTIONS else "",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "start": str(run.start),
        "start_sha256": str(run.start.source.get("sha256", "")),
        "teachers": ", ".join(f"{teacher.name} {teacher.sha256}" for teacher in run.teachers),
    }
    start = f"from {run.start}" + (", a stand-in with made-up weights" if run.start.standin else "")
    provenance = Provenance(
        source, source, run.network_name, "classifier", len(run.examples.classes), labels=run.examples.classes,
        preprocessing=PUBLISHED.as_dict() | {"size": (size, size)},
        num_batches_tracked=run.steps_after(epoch),
        notes=(f"trained by the recipe {recipe.name} {start}; epoch {epoch}, seed {recipe.training.seed}",),
        training=training,
    )  # fmt: skip
    return Checkpoint(table, arrays_by_layer(weights), provenance)


def _accuracy_report(
    path: Path, run: Run, folder: RunFolder, dataset: Dataset, data: str, say: Any
) -> list[dict[str, Any]]:
    """What ``ferplus verify accuracy`` says of the file, with its report in ``accuracy/``."""
    from ferplus_keras.dataset.protocols import PROTOCOLS
    from verify.accuracy import evaluate
    from verify.accuracy_result import as_result
    from verify.predictors import open_predictor
    from verify.report import write_report

    began = time.perf_counter()
    limit = len(run.examples.valid) if len(run.examples.valid) == len(run.examples.test) else None
    protocol = run.recipe.data.protocol
    words = ["ferplus", "verify", "accuracy", str(path), "--data", data, "--split", "both", "--protocol", protocol]
    again = shlex.join(words + (["--limit", str(limit)] if limit else []))
    evaluation = evaluate(
        open_predictor(path), dataset, PROTOCOLS[protocol], splits=("val", "test"), limit=limit,
        progress=lambda step: say.passing(f"{step.title}: {step.done:,} of {step.total:,}"),
    )  # fmt: skip
    result = as_result(evaluation, [], again, time.perf_counter() - began)
    write_report(result, folder.accuracy, dataset.images)
    return [
        {key: split[key] for key in ("split", "n", "correct", "accuracy", "interval", "always_the_commonest")}
        | {"without_copies": split["without_copies"]["accuracy"]}
        for split in result["splits"]
    ]


def _rates(run: Run, outcome: FinishedRun) -> list[dict[str, Any]]:
    """Of classes that the accuracy report does not know: FER2013's seven."""
    import numpy as np

    from ferplus_keras.finetune.network import set_arrays
    from ferplus_keras.finetune.state import arrays_by_layer
    from verify.scores import Rate

    set_arrays(run.network, run.table, arrays_by_layer(outcome.best))
    parts: dict[str, Part] = {"val": run.examples.valid, "test": run.examples.test}
    rates = []
    for split, part in parts.items():
        right = np.asarray(run.logits(part).argmax(axis=1) == part.labels)
        rates.append({"split": split, "always_the_commonest": part.commonest} | Rate.of(right).as_dict())
    return rates


def _card(run: Run, outcome: FinishedRun, folder: RunFolder, made: dict[str, Any]) -> str:
    """The model card: what it is, what it was made of, how good it is, and what it is not for."""
    recipe, examples, best = run.recipe, run.examples, outcome.history[outcome.best_epoch - 1]
    if examples.classes == EMOTIONS:
        data = "FER+ (Barsoum et al. 2016)"
        judges, protocol, rare = "ten people", f"protocol `{recipe.data.protocol}`, ", "disgust, contempt"
        see = "; see the table by class in the accuracy report"
    else:
        data = "FER2013 (Goodfellow et al. 2013)"
        judges, protocol, rare, see = "one person", "", "disgust", ""
    start = f"{run.start}" + (" (**a stand-in with made-up weights**)" if run.start.standin else "")
    title = f"{TITLES[run.network_name]}, {len(examples.classes)} emotions, recipe {recipe.name}"
    names = [Path(each["path"]).name for each in made["files"]]
    runs = next((name for name in names if name.endswith((".h5", ".keras"))), None)
    lines = [
        *opening(title, examples.classes, run.size, runs),
        "| | images | right | 95 % | always the commonest |",
        "|---|---|---|---|---|",
    ]
    for rate in made["accuracy"]:
        low, high = rate["interval"] or (0.0, 0.0)
        name = {"val": "Valid (chosen on)", "test": "Test (looked at once)"}[rate["split"]]
        lines.append(
            f"| {name} | {rate['n']:,} | {percent(rate['accuracy'])} | {percent(low)} to {percent(high)} | "
            f"{percent(rate['always_the_commonest'])} |"
        )
    for warning in (each for rate in made["accuracy"] for each in guesswork(rate)):
        lines += ["", f"**Warning**: {warning}."]
    lines += [
        "",
        "![learning curves](curves.svg)",
        "",
        "## How it was made",
        "",
        f"- Data: {data}, {protocol}{len(examples.train):,} images to learn from; fingerprint `{examples.fingerprint}`",
        f"- Recipe: {recipe.summary or recipe.name}; every value in [recipe.toml](recipe.toml)",
        f"- Start: {start}",
        f"- {outcome.best_epoch} of {len(outcome.history)} epochs ({outcome.reason}), seed {recipe.training.seed}, "
        f"{run.precision}; on Valid the loss was {best['val_loss']:.3f}",
        f"- Input: {run.size} x {run.size} pixels, RGB less the mean, bilinear resize",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in versions().items())}",
        "",
        "## Limits",
        "",
        f"- It was trained on faces found on the web in 2013, 48 x 48 pixels, greyscale, each judged by {judges}. It "
        "predicts what they would call an expression, not what somebody feels.",
        f"- Rare expressions ({rare}) have few examples{see}.",
        "- Do not use it to make decisions about people. Emotion recognition at work and at school is forbidden in "
        "the EU (AI Act, article 5).",
        "- The data's terms allow research; whether that covers weights trained on them is for you to find out.",
        "",
        "## Files",
        "",
        "| file | bytes | SHA-256 |",
        "|---|---|---|",
    ]
    lines += [f"| {Path(each['path']).name} | {each['size']:,} | `{each['sha256']}` |" for each in made["files"]]
    return "\n".join(lines) + "\n"
