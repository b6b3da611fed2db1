"""``ferplus finetune``: train a network, and make a release of it."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferplus_keras.cli import screen
from ferplus_keras.cli.parsing import option
from ferplus_keras.cli.progress import Progress
from ferplus_keras.cli.requirements import need_file, need_folder
from ferplus_keras.cli.shared import DATA, Commands, count, finish, plain, seed, start_keras
from ferplus_keras.durations import duration
from ferplus_keras.errors import BadInputError, CheckFailedError
from ferplus_keras.networks.architecture import KNOWN
from ferplus_keras.packages import BACKENDS, need
from ferplus_keras.wording import counted, percent

if TYPE_CHECKING:
    from ferplus_keras.finetune.examples import Examples
    from ferplus_keras.finetune.folder import RunFolder
    from ferplus_keras.finetune.progress import Moment
    from ferplus_keras.finetune.recipe import Recipe
    from ferplus_keras.finetune.start import Start
    from ferplus_keras.finetune.teacher import Teacher
    from ferplus_keras.finetune.training import Run

#: The files that a release consists of; names of ``convert.targets.FORMATS``.
RELEASE_FORMATS = ("h5", "keras", "pth", "safetensors")

#: What a run is started with, and what ``--resume`` takes from there when it is not given again.
REMEMBERED = ("data", "labels", "arch", "weights", "teacher", "limit", "backend", "distribute", "formats")


def add(commands: Commands) -> None:
    """Declare the commands of this module."""
    commands.add(
        "finetune", _finetune, "Train a network on FERPlus or FER2013 (docs/finetuning.md).",
        "ferplus finetune --data fer2013/ --arch resnet50 --recipe scratch --out runs/scratch",
        DATA,
        option("--labels", "FERPlus's 8 classes, or Kaggle's 7 (default: ferplus)", ("ferplus", "fer2013")),
        option("--arch", "the network (default: resnet50)", KNOWN),
        option("--recipe NAME", "albanie, wtomin, scratch, compact, or a TOML file (default: scratch)"),
        option("--set KEY=VALUE", "change a value of the recipe, such as learning_rate=0.02 (may be repeated)",
               None, [], action="append", dest="overrides"),
        option("--size N", "train on N x N images (short for --set network.size=N)", count),
        option("--seed N", "random seed (short for --set training.seed=N)", seed),
        option("--weights START", "a checkpoint, or the folder of a run or released network (default: random weights)"),
        option("--teacher DIR", "learn from a run's or a released network too (may be repeated: they are averaged)",
               action="append"),
        option("--out DIR", "folder for checkpoints, curves and results", Path),
        option("--resume DIR", "continue the run in DIR (or in --out)", nargs="?", const=True),
        option("--overwrite", "replace an earlier run in --out"),
        option("--dry-run", "estimate memory and time; write nothing"),
        option("--limit N", "only N images of each split", count),
        option("--backend", "default: tensorflow", BACKENDS),
        option("--distribute HOW", "several devices or machines (docs/distribution.md)"),
        option("--formats LIST", f"formats of the finished weights (default: {','.join(RELEASE_FORMATS)})"),
    )  # fmt: skip


def _finetune(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    folder = _folder(options)
    if options.resume and folder is not None and (made := _finished(folder, options)):
        return finish(options.json, made, news=("finished already, and complete", *_summary(made, folder)))
    # Everything that can be refused without Keras is refused before seconds go by for importing it.
    from ferplus_keras.finetune.distribution import parse, scope

    spec = parse(options.distribute)
    if folder is not None and not options.dry_run and not (spec and spec.process):  # the others write nothing
        folder.check(resume=bool(options.resume), overwrite=options.overwrite)
        need_folder(folder.path)
    formats, recipe = _formats(options), _recipe(options, folder)
    for name in ([options.weights] if options.weights else []) + (options.teacher or []):
        need_file(name, folder=True)
    if not options.dry_run:
        need("jinja2")  # for the report at the end
    say = _Progress(quiet=options.json)
    examples, dataset = _examples(options, recipe, say)
    start_from, teachers = _start(options, examples.classes), _teachers(options, examples.classes)
    start_keras(options.backend)
    with scope(options.distribute) as world:
        from ferplus_keras.finetune.training import Hooks, Run

        hooks = Hooks(say.moment, say.line, say.epoch)
        size = recipe.legs[0].recipe.network.size
        say.passing(f"building {options.arch} at {size} x {size}")

        def make() -> Run:
            return Run(options.arch, recipe, examples, start_from, hooks, world, teachers)

        if options.dry_run:
            return _dry_run(make(), options)
        assert folder is not None
        from ferplus_keras.finetune.folder import locked

        if world.process:  # the others write nothing
            make().train(folder, resume=bool(options.resume))
            return 0
        with locked(folder):
            folder.prepare(resume=bool(options.resume), overwrite=options.overwrite)
            try:
                run = make()
                if options.resume and folder.run.exists():
                    run.check_same_as(folder)
                else:
                    folder.clear()
                    folder.write_text(folder.recipe, recipe.to_toml())
                    folder.write_run(_record(options, run))
                outcome = run.train(folder, resume=bool(options.resume))
                from verify.release import release

                made = release(run, outcome, folder, dataset, formats, _places(options).get("data", ""), say)
            except BaseException as error:
                _how_to_continue(error, folder)
                raise
    made["seconds"] = round(time.perf_counter() - start, 1)
    return finish(options.json, plain(made), news=_summary(made, folder))


def _folder(options: argparse.Namespace) -> RunFolder | None:
    """The run's folder; options that were not given are those that it was started with."""
    from ferplus_keras.finetune.folder import RunFolder

    place = Path(options.resume) if isinstance(options.resume, str) else options.out
    if isinstance(options.resume, str) and options.out and Path(options.resume) != options.out:
        raise BadInputError(f"--resume {options.resume} and --out {options.out} are two folders: name one.")
    if place is None and not options.dry_run:
        raise BadInputError("Give the run a folder: --out DIR.")
    if options.resume and options.overwrite:
        raise BadInputError("--resume continues a run and --overwrite replaces it: choose one.")
    folder = RunFolder(place) if place is not None else None
    if options.resume and folder is not None:
        folder.check(resume=True, overwrite=False)
        remembered = folder.read_run().get("options", {})
        for name in REMEMBERED:
            if getattr(options, name) is None and isinstance(remembered, dict):
                setattr(options, name, remembered.get(name))
    options.labels, options.arch = options.labels or "ferplus", options.arch or "resnet50"
    return folder


def _finished(folder: RunFolder, options: argparse.Namespace) -> dict[str, Any] | None:
    """What a finished run made, when all of it is still there.

    Raises :class:`BadInputError` when other values were asked for, or something is missing that cannot be made again.
    """
    made = folder.read_release()
    if not made:
        return None
    remembered = folder.read_run().get("options", {})
    other = any(getattr(options, name) != remembered.get(name) for name in ("arch", "labels", "limit"))
    if other or options.recipe or options.overrides or options.size or options.seed is not None:
        raise BadInputError(
            f"The run in {folder.path} is finished: with other values it is another run. Give another --out, and "
            f"--weights {folder.path} to start from this one's weights."
        )
    there = {Path(each["path"]).suffix for each in made["files"]}
    if missing := folder.missing(made) + [f"best.{each}" for each in _formats(options) if f".{each}" not in there]:
        if not folder.state.exists():
            raise BadInputError(
                f"The run in {folder.path} is finished, and {', '.join(missing)} cannot be made again without "
                f"{folder.state.relative_to(folder.path)}. Start again with --overwrite, or keep what is there."
            )
        return None
    return made


def _recipe(options: argparse.Namespace, folder: RunFolder | None) -> Recipe:
    from ferplus_keras.finetune.recipe import load_recipe

    name = options.recipe
    if name is None and options.resume and folder is not None:
        name = folder.recipe
    overrides = list(options.overrides)
    overrides += [f"network.size={options.size}"] if options.size else []
    overrides += [f"training.seed={options.seed}"] if options.seed is not None else []
    recipe = load_recipe(name or "scratch", overrides, network=options.arch)
    if recipe.stages and len(recipe.stages) < len(load_recipe(name or "scratch", network=options.arch).stages):
        size = recipe.legs[-1].recipe.network.size
        screen.notice(
            f"{counted(recipe.schedule.epochs, 'epoch')}: too few for all of the recipe's stages. The last one is at "
            f"{size} x {size}, and so the network will be for images of that size"
        )
    return recipe


def _formats(options: argparse.Namespace) -> tuple[str, ...]:
    wanted = tuple((options.formats or ",".join(RELEASE_FORMATS)).split(","))
    if wrong := [name for name in wanted if name not in RELEASE_FORMATS]:
        raise BadInputError(f'--formats takes {", ".join(RELEASE_FORMATS)}, separated by commas, not "{wrong[0]}".')
    return wanted


def _examples(options: argparse.Namespace, recipe: Recipe, say: _Progress) -> tuple[Examples, Any]:
    from ferplus_keras.dataset import DATA_VARIABLE, load_ferplus
    from ferplus_keras.dataset.fer2013 import FER2013_CLASSES, load_fer2013
    from ferplus_keras.finetune.examples import make_examples

    if options.labels == "ferplus":
        dataset = load_ferplus(options.data, progress=say.passing)
        return make_examples(dataset, recipe.data, limit=options.limit), dataset
    if not (path := options.data or os.environ.get(DATA_VARIABLE)):
        raise BadInputError(f"No data given: use --data PATH to fer2013.csv, or set {DATA_VARIABLE}.")
    dataset, labels = load_fer2013(path, progress=say.passing)
    made = make_examples(dataset, recipe.data, labels=labels, classes=FER2013_CLASSES, limit=options.limit)
    return made, dataset


def _start(options: argparse.Namespace, classes: tuple[str, ...]) -> Start:
    """The checkpoint, run or released folder that ``--weights`` names, without its head if that has other classes."""
    from dataclasses import asdict

    from ferplus_keras.finetune.start import Start

    if not options.weights:
        return Start()
    from convert.folding import refuse_folded
    from convert.readers import read_checkpoint
    from ferplus_keras.files.hashing import sha256_of
    from ferplus_keras.files.network_folder import RELEASED

    path = Path(options.weights)
    if (released := path / RELEASED).is_file():
        path = released
    if path.is_dir():
        from ferplus_keras.finetune.state import arrays_by_layer, best_of

        best = best_of(path)
        arrays = arrays_by_layer(best)
        if "classifier" in arrays and arrays["classifier"]["bias"].shape != (len(classes),):
            del arrays["classifier"]
        return Start(arrays, {"name": best.name, "sha256": sha256_of(best), "format": "a run of this program"})
    checkpoint = read_checkpoint(path)
    network = checkpoint.architecture.network
    # SE-ResNet50 may start from either network: `with_gates` adds the gates that ResNet50 lacks.
    if network != options.arch and (network, options.arch) != ("resnet50", "senet50"):
        raise BadInputError(
            f"{path} is a {network} network and cannot start a {options.arch} one: give --arch {network}, or other "
            "--weights."
        )
    refuse_folded(checkpoint, "Give the file that it was folded from.")
    provenance = checkpoint.provenance
    kept = {layer: roles for layer, roles in checkpoint.arrays.items() if layer != "feat_extract"}
    if provenance.head != "classifier" or provenance.labels != classes:
        kept.pop("classifier", None)
    source = {key: str(value) for key, value in asdict(provenance.source).items()}
    return Start(
        kept,
        source | {"origin": provenance.origin.name, "head": provenance.head, "standin": str(provenance.standin)},
        provenance.standin,
    )


def _teachers(options: argparse.Namespace, classes: tuple[str, ...]) -> tuple[Teacher, ...]:
    if not options.teacher:
        return ()
    from ferplus_keras.finetune.teacher import load_teacher

    return tuple(load_teacher(Path(path), len(classes)) for path in options.teacher)


def _record(options: argparse.Namespace, run: Any) -> dict[str, Any]:
    """What ``run.json`` says of a run, at its beginning."""
    from verify.release import versions

    return {
        "options": {name: getattr(options, name) for name in REMEMBERED} | _places(options),
        "identity": run.identity,
        "data": run.examples.fingerprint,
        "classes": list(run.examples.classes),
        "images": {"train": len(run.examples.train), "val": len(run.examples.valid), "test": len(run.examples.test)},
        "start": run.start.source or None,
        "seed": run.recipe.training.seed,
        "precision": run.precision,
        "deterministic": run.deterministic,
        "versions": versions(),
    }


def _places(options: argparse.Namespace) -> dict[str, Any]:
    """Paths as they are called from anywhere."""
    from ferplus_keras.dataset import DATA_VARIABLE

    named = {"data": options.data or os.environ.get(DATA_VARIABLE), "weights": options.weights}
    places: dict[str, Any] = {name: str(Path(path).expanduser().absolute()) for name, path in named.items() if path}
    if options.teacher:
        places["teacher"] = [str(Path(path).expanduser().absolute()) for path in options.teacher]
    return places


def _again(folder: RunFolder) -> str:
    return shlex.join(["ferplus", "finetune", "--resume", str(folder.path)])


def _how_to_continue(error: BaseException, folder: RunFolder) -> None:
    """Said beside the error itself, whatever that is."""
    if isinstance(error, BadInputError | CheckFailedError):
        return  # the same again would end in the same way
    if folder.state.exists():
        screen.notice("", f"The last checkpoint is complete. To continue: {_again(folder)}")
    elif folder.started:
        screen.notice("", f"No epoch was completed. To start again: {_again(folder)}")


def _dry_run(run: Run, options: argparse.Namespace) -> int:
    from dataclasses import asdict

    found = run.rehearse()
    return finish(options.json, asdict(found) | {"seconds": found.seconds}, (
        f"{options.arch}: {found.parameters:,} parameters, {found.trained_parameters:,} of them trained, in "
        f"{found.precision}",
        f"{counted(found.train_images, 'image')} to train on, {found.valid_images:,} to validate on",
        *(
            f"{stage.size} x {stage.size}: {counted(stage.epochs, 'epoch')} of {stage.steps_per_epoch:,} steps, batch "
            f"{stage.batch}: {stage.step_seconds:.3f} s a step, {duration(stage.epoch_seconds)} an epoch, "
            f"{duration(stage.epochs * stage.epoch_seconds)} in all, about {stage.bytes / 1e9:.1f} GB of memory"
            for stage in found.stages
        ),
        f"about {duration(found.seconds)} altogether; nothing was written",
    ))  # fmt: skip


def _summary(made: dict[str, Any], folder: RunFolder) -> list[str]:
    from verify.scores import guesswork

    lines = [f"best epoch: {made['best_epoch']} of {made['epochs']} ({made['reason']})"]
    lines += [f"{each['split']}: {percent(each['accuracy'])} of {each['n']:,}" for each in made["accuracy"]]
    lines += [f"warning: {each}" for rate in made["accuracy"] for each in guesswork(rate)]
    lines += [f"{each['path']}  {each['size'] / 1e6:.1f} MB  {each['sha256'][:12]}" for each in made["files"]]
    took = f", in {duration(made['seconds'])}" if "seconds" in made else ""
    lines.append(f"{folder.path}: everything is here{took}; start with model-card.md")
    return lines


class _Progress(Progress):
    """The progress of a run."""

    between_lines, between_glances, at_once = 30.0, 0.0, True

    def moment(self, moment: Moment) -> None:
        self.passing(str(moment))

    def epoch(self, row: dict[str, Any]) -> None:
        loss = "none" if row["val_loss"] is None else f"{row['val_loss']:.3f}"
        self.line(
            f"epoch {row['epoch']}: loss {row['loss']:.3f}; on Valid {percent(row['val_accuracy'])} right, "
            f"loss {loss}; {row['seconds']:.0f} s, {row['images_per_second']:.1f} images/s"
        )
