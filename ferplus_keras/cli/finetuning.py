"""``ferplus finetune``: train a network, and make a release of it."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferplus_keras.cli import screen
from ferplus_keras.cli.progress import Progress
from ferplus_keras.cli.shared import Commands, count, plain, seed, start_keras
from ferplus_keras.durations import duration
from ferplus_keras.errors import BadInputError, CheckFailedError
from ferplus_keras.networks.architecture import NETWORKS

if TYPE_CHECKING:
    from ferplus_keras.finetune.examples import Examples
    from ferplus_keras.finetune.folder import RunFolder
    from ferplus_keras.finetune.network import Start
    from ferplus_keras.finetune.progress import Moment
    from ferplus_keras.finetune.recipe import Recipe

#: The files that a release consists of; names of ``convert.writers.FORMATS``.
RELEASE_FORMATS = ("h5", "keras", "pth", "safetensors")

#: What a run is begun with, and what ``--resume`` takes from there when it is not given again.
REMEMBERED = ("data", "labels", "arch", "weights", "limit", "backend", "distribute", "formats")


def add(commands: Commands) -> None:
    """Declare the commands of this module."""
    tune = commands.add(
        "finetune", _finetune, "Train a network on FERPlus or FER2013, and make a release of it (docs/finetuning.md).",
        "ferplus finetune --data fer2013/ --arch resnet50 --recipe scratch --out runs/scratch",
    )  # fmt: skip
    tune.add_argument("--data", metavar="PATH", help="as for `verify accuracy` (default: $FERPLUS_DATA)")
    tune.add_argument(
        "--labels", choices=("ferplus", "fer2013"), help="8 classes of votes, or Kaggle's 7 (default: ferplus)"
    )
    tune.add_argument("--arch", choices=NETWORKS, help="the network (default: resnet50)")
    tune.add_argument("--recipe", metavar="NAME", help="albanie, wtomin, scratch, or a TOML file (default: scratch)")
    tune.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="a value of the recipe, such as learning_rate=0.02 (may be repeated)",
    )  # fmt: skip
    tune.add_argument("--size", type=count, metavar="N", help="side of the input: --set network.size=N")
    tune.add_argument("--seed", type=seed, metavar="N", help="--set training.seed=N")
    tune.add_argument(
        "--weights", metavar="START", help="a checkpoint of any format, or a run's folder (default: random weights)"
    )
    tune.add_argument("--out", metavar="DIR", type=Path, help="the run's folder: checkpoints, curves, release")
    tune.add_argument("--resume", nargs="?", const=True, metavar="DIR", help="go on with the run in DIR (or in --out)")
    tune.add_argument("--overwrite", action="store_true", help="begin anew where another run is")
    tune.add_argument("--dry-run", action="store_true", help="say memory, steps and time; write nothing")
    tune.add_argument("--limit", type=count, metavar="N", help="N pictures of each split only")
    tune.add_argument("--backend", choices=("tensorflow", "jax", "torch"), help="default: tensorflow")
    tune.add_argument("--distribute", metavar="HOW", help="several devices or machines (docs/finetuning.md)")
    tune.add_argument(
        "--formats", metavar="LIST", help=f"of the release, with commas (default: {','.join(RELEASE_FORMATS)})"
    )


def _finetune(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    folder = _folder(options)
    start_keras(options.backend)

    from ferplus_keras.finetune.distribution import parse, scope

    parse(options.distribute)
    formats = _formats(options)
    say = _Progress(quiet=options.json)
    recipe = _recipe(options, folder)
    examples, dataset = _examples(options, recipe, say)
    begun_from = _start(options, examples.classes)
    with scope(options.distribute) as world:
        from ferplus_keras.finetune.training import Hooks, Run

        hooks = Hooks(say.moment, say.line, say.epoch)
        say.passing(f"building {options.arch} at {recipe.network.size} x {recipe.network.size}")

        def make() -> Run:
            return Run(options.arch, recipe, examples, begun_from, hooks, world)

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
                if not (options.resume and folder.run.exists()):
                    folder.write_text(folder.recipe, recipe.to_toml())
                    folder.write_run(_record(options, run))
                outcome = run.train(folder, resume=bool(options.resume))
                from ferplus_keras.cli.finetune_release import release

                made = release(run, outcome, folder, dataset, formats, _again(folder), say)
            except BaseException as error:
                _how_to_go_on(error, folder)
                raise
    made["seconds"] = round(time.perf_counter() - start, 1)
    if options.json:
        screen.result_json(plain(made))
        return 0
    screen.news(*_told(made, folder))
    return 0


def _folder(options: argparse.Namespace) -> RunFolder | None:
    """The run's folder; options that were not given are those that it was begun with."""
    from ferplus_keras.finetune.folder import RunFolder

    place = Path(options.resume) if isinstance(options.resume, str) else options.out
    if isinstance(options.resume, str) and options.out and Path(options.resume) != options.out:
        raise BadInputError(f"--resume {options.resume} and --out {options.out} are two folders: name one.")
    if place is None and not options.dry_run:
        raise BadInputError("Say where the run is to go: --out DIR.")
    if options.resume and options.overwrite:
        raise BadInputError("--resume goes on with a run and --overwrite replaces it: choose one.")
    folder = RunFolder(place) if place is not None else None
    if options.resume and folder is not None:
        if not folder.begun:
            raise BadInputError(f"There is no run in {folder.path} to go on with. Leave --resume out to begin one.")
        remembered = folder.read_run().get("options", {})
        for name in REMEMBERED:
            if getattr(options, name) is None and isinstance(remembered, dict):
                setattr(options, name, remembered.get(name))
    options.labels, options.arch = options.labels or "ferplus", options.arch or "resnet50"
    return folder


def _recipe(options: argparse.Namespace, folder: RunFolder | None) -> Recipe:
    from ferplus_keras.finetune.recipe import load_recipe

    name = options.recipe
    if name is None and options.resume and folder is not None:
        name = folder.recipe
    overrides = list(options.overrides)
    overrides += [f"network.size={options.size}"] if options.size else []
    overrides += [f"training.seed={options.seed}"] if options.seed is not None else []
    return load_recipe(name or "scratch", overrides, network=options.arch)


def _formats(options: argparse.Namespace) -> tuple[str, ...]:
    wanted = tuple(filter(None, (options.formats or ",".join(RELEASE_FORMATS)).split(",")))
    if wrong := [name for name in wanted if name not in RELEASE_FORMATS]:
        raise BadInputError(f"--formats takes {', '.join(RELEASE_FORMATS)}, with commas between, not {wrong[0]!r}.")
    return wanted


def _examples(options: argparse.Namespace, recipe: Recipe, say: _Progress) -> tuple[Examples, Any]:
    from ferplus_keras.dataset import DATA_VARIABLE, load_ferplus
    from ferplus_keras.dataset.fer2013 import FER2013_CLASSES, load_fer2013
    from ferplus_keras.finetune.examples import make_examples

    if options.labels == "ferplus":
        dataset = load_ferplus(options.data, progress=say.passing)
        return make_examples(dataset, recipe.data, limit=options.limit), dataset
    if not (path := options.data or os.environ.get(DATA_VARIABLE)):
        raise BadInputError(f"No data were named: give --data PATH to fer2013.csv, or set {DATA_VARIABLE}.")
    dataset, labels = load_fer2013(path, progress=say.passing)
    made = make_examples(dataset, recipe.data, labels=labels, classes=FER2013_CLASSES, limit=options.limit)
    return made, dataset


def _start(options: argparse.Namespace, classes: tuple[str, ...]) -> Start:
    """The checkpoint or the run that ``--weights`` names; its head is left out unless it has the same classes."""
    from dataclasses import asdict

    from ferplus_keras.finetune.network import Start

    if not options.weights:
        return Start()
    from convert.folding import refuse_folded
    from convert.readers import read_checkpoint
    from ferplus_keras.files.hashing import sha256_of

    path = Path(options.weights)
    if path.is_dir():
        from ferplus_keras.finetune.state import load_arrays

        found = sorted((path / "state").glob("best-*.safetensors"))
        if not found:
            raise BadInputError(f"{path} is no folder of a run: it has no state/best-....safetensors.")
        arrays: dict[str, dict[str, Any]] = {}
        for name, array in load_arrays(found[-1]).arrays.items():
            layer, role = name.split("/")
            arrays.setdefault(layer, {})[role] = array
        if "classifier" in arrays and arrays["classifier"]["bias"].shape != (len(classes),):
            del arrays["classifier"]
        return Start(
            arrays, {"name": found[-1].name, "sha256": sha256_of(found[-1]), "format": "a run of this program"}
        )
    checkpoint = read_checkpoint(path, network=options.arch)
    refuse_folded(checkpoint, "Give the file that it was folded from.")
    told = checkpoint.provenance
    kept = {layer: roles for layer, roles in checkpoint.arrays.items() if layer != "feat_extract"}
    if told.head != "classifier" or told.labels != classes:
        kept.pop("classifier", None)
    source = {key: str(value) for key, value in asdict(told.source).items()}
    return Start(
        kept, source | {"origin": told.origin.name, "head": told.head, "standin": str(told.standin)}, told.standin
    )


def _record(options: argparse.Namespace, run: Any) -> dict[str, Any]:
    """What ``run.json`` says of a run, at its beginning."""
    from ferplus_keras.cli.finetune_release import versions

    return {
        "options": {name: getattr(options, name) for name in REMEMBERED} | _places(options),
        "identity": run.identity,
        "data": run.examples.fingerprint,
        "classes": list(run.examples.classes),
        "pictures": {"train": len(run.examples.train), "val": len(run.examples.valid), "test": len(run.examples.test)},
        "start": run.start.told or None,
        "seed": run.recipe.training.seed,
        "precision": run.precision,
        "deterministic": run.deterministic,
        "versions": versions(),
    }


def _places(options: argparse.Namespace) -> dict[str, str]:
    """Paths as they are called from anywhere."""
    from ferplus_keras.dataset import DATA_VARIABLE

    named = {"data": options.data or os.environ.get(DATA_VARIABLE), "weights": options.weights}
    return {name: str(Path(path).expanduser().absolute()) for name, path in named.items() if path}


def _again(folder: RunFolder) -> str:
    return shlex.join(["ferplus", "finetune", "--resume", str(folder.path)])


def _how_to_go_on(error: BaseException, folder: RunFolder) -> None:
    """Said beside the error itself, whatever that is."""
    if isinstance(error, BadInputError | CheckFailedError):
        return  # the same again would end in the same way
    if folder.state.exists():
        screen.notice("", f"The last checkpoint is complete. To go on: {_again(folder)}")
    elif folder.begun:
        screen.notice("", f"No epoch was finished. To begin again: {_again(folder)}")


def _dry_run(run: Any, options: argparse.Namespace) -> int:
    found = run.rehearse()
    if options.json:
        screen.result_json(found)
        return 0
    screen.result(
        f"{options.arch}, {found['parameters']:,} numbers, of which {found['trained_parameters']:,} learn; "
        f"{found['precision']}",
        f"{found['train_pictures']:,} pictures to learn from and {found['valid_pictures']:,} to choose on, "
        f"in batches of {found['batch']}: {found['steps_per_epoch']:,} steps an epoch, {found['steps']:,} in "
        f"{found['epochs']} epochs",
        f"{found['step_seconds']:.3f} s a step, {duration(found['epoch_seconds'])} an epoch with Valid, "
        f"{duration(found['run_seconds'])} altogether",
        f"{found['peak_bytes'] / 1e9:.2f} GB of {found['memory']} memory at the most; nothing was written",
    )
    return 0


def _told(made: dict[str, Any], folder: RunFolder) -> list[str]:
    lines = [f"best epoch: {made['best_epoch']} of {made['epochs']} ({made['reason']})"]
    lines += [f"{each['split']}: {each['accuracy']:.2%} of {each['n']:,}" for each in made["accuracy"]]
    lines += [f"{each['path']}  {each['size'] / 1e6:.1f} MB  {each['sha256'][:12]}" for each in made["files"]]
    lines.append(f"{folder.path}: all of it, in {duration(made['seconds'])}; begin with model-card.md")
    return lines


class _Progress(Progress):
    """The progress of a run."""

    between_lines, between_glances, at_once = 30.0, 0.0, True

    def moment(self, moment: Moment) -> None:
        self.passing(str(moment))

    def epoch(self, row: dict[str, Any]) -> None:
        loss = "none" if row["val_loss"] is None else f"{row['val_loss']:.3f}"
        self.line(
            f"epoch {row['epoch']}: loss {row['loss']:.3f}; on Valid {row['val_accuracy']:.2%} right, loss {loss}; "
            f"{row['seconds']:.0f} s, {row['pictures_per_second']:.0f} pictures a second"
        )
