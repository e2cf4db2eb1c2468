"""The command line. It parses, calls one function, prints; every mistake is one sentence."""

import argparse
import contextlib
import json
import shlex
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dino_tutorial.errors import UserError, printable
from dino_tutorial.files.streams import (
    Terminated,
    ended_by_sigterm,
    forget_stdout,
    nobody_reads,
    of_the_machine,
    streams_that_hold,
)

if TYPE_CHECKING:
    from dino_tutorial.runs import Config

GO_ON = "stopped; what is described stays. Continue with the same command."
EMBED = """\
Features of every image of a folder, a row each, with the image's name and class:

  dino-tutorial embed runs/dino-photos --data photos --out photos.npz
  dino-tutorial embed dinov2_vits14_reg --data photos --out photos.parquet

An .npz holds the arrays files, labels, classes and features, and with --patches also patches
(images, patches, width), in float16; numpy.load reads it. A command that was stopped goes on
where it was when it is given again. Images become squares: the short side resized, the centre
kept."""

CLASSIFY = """\
Fit k-NN and a linear classifier to frozen features of images in folders by class, say how often
they are right on the images held out (those in test/, else a tenth), and name the classes of
other images:

  dino-tutorial classify runs/dino-photos --data photos
  dino-tutorial classify dinov2_vits14_reg --data photos --predict new --out new.csv"""

EXPORT = """\
The backbone of a finished run in a form that other programs load without this package:

  dino-tutorial export RUN --to timm --out FOLDER
      timm.create_model("local-dir:FOLDER", pretrained=True)
  dino-tutorial export RUN --to hf --out FOLDER
      transformers' Dinov2Model, with registers Dinov2WithRegistersModel: .from_pretrained("FOLDER")
  dino-tutorial export RUN --to onnx --out FILE.onnx
      class tokens and patch tokens of any number of images of any size
  dino-tutorial export RUN --out FILE.safetensors
      the weights under this package's names"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0, 2 for a mistake of the user's, 130 after Ctrl-C.

    What is printed for people on a terminal that is gone is lost, and the command goes on; what
    is printed as a result and cannot be, ends it: 141 where nobody reads on, as in a shell.
    """
    try:
        with streams_that_hold(), ended_by_sigterm():
            try:
                options = build_parser().parse_args(arguments)
            except SystemExit:  # after --help, which somebody may not have read to its end
                _flush()
                raise
            code = options.run(options)
            _flush()
            return code
    except UserError as error:
        return _say(printable(str(error)), 2)
    except KeyboardInterrupt as stop:
        return _say(str(stop) or "stopped", 130)
    except Terminated:
        return _say("stopped", 143)
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            forget_stdout()
            return 141
        sentence = of_the_machine(error)
        if sentence is None:
            raise
        forget_stdout()
        return _say(sentence, 2)


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _say(sentence: str, code: int) -> int:
    """A sentence for the person at the terminal; returns the exit code."""
    with contextlib.suppress(OSError):
        print(f"dino-tutorial: {sentence}", file=sys.stderr, flush=True)
    return code


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dino-tutorial", description="From BYOL to DINO to DINOv2: train, measure, look."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train an encoder")
    train.add_argument("method", help="what trains it (dino-tutorial methods lists them)")
    train.add_argument("--data", help="a data set's name or a folder of images (default: scenes)")
    _add_training_options(train, "method-data-preset")
    train.set_defaults(run=_train)

    distill = commands.add_parser("distill", help="train a small student on a frozen teacher")
    distill.add_argument(
        "teacher", metavar="RUN", help="the folder of a finished run of dino or dinov2"
    )
    distill.add_argument("--data", help="another data set or folder (default: the teacher's)")
    _add_training_options(distill, "distill-data-preset")
    distill.set_defaults(run=_distill)

    evaluate = commands.add_parser("eval", help="k-NN and a linear probe on frozen features")
    evaluate.add_argument("run_folder", metavar="RUN", help="the folder of a run")
    evaluate.add_argument("--data", help="another data set or folder (default: the run's)")
    evaluate.add_argument("--k", type=int, help="neighbours (default: 20, or all of fewer)")
    evaluate.add_argument("--temperature", type=float, default=0.07)
    evaluate.add_argument("--linear", action="store_true", help="also train a linear probe")
    evaluate.add_argument("--dense", action="store_true", help="also segmentation and depth")
    evaluate.add_argument("--limit", type=int, help="at most this many images of each split")
    evaluate.add_argument("--size", type=int, help="side of the images (default: the run's)")
    evaluate.add_argument("--device", default="auto")
    evaluate.add_argument("--save", action="store_true", help="keep it in RUN, for `record` too")
    evaluate.set_defaults(run=_evaluate)

    record = commands.add_parser("record", help="keep a finished run's numbers in data/results")
    record.add_argument("run_folder", metavar="RUN")
    record.add_argument("--into", default="data/results")
    record.add_argument("--name", help="name of the record (default: the run's)")
    record.add_argument("--weights", action="store_true", help="with the backbone and its card")
    record.set_defaults(run=_record)

    report = commands.add_parser("report", help="write a finished run's report again")
    report.add_argument("run_folder", metavar="RUN")
    report.set_defaults(run=_report)

    show = commands.add_parser("show", help="attention, components, crops or neighbours as a file")
    show.add_argument("seen_by", metavar="RUN", help="a run's folder, or a released model's name")
    show.add_argument("what", choices=("attention", "pca", "crops", "neighbours"))
    show.add_argument("--data", help="another data set or folder (default: the run's)")
    show.add_argument("--n", type=int, default=4, help="number of images (default: 4)")
    show.add_argument("--size", type=int, help="side of an image in pixels (default: the run's)")
    show.add_argument("--out", help=".png, .svg, .pdf or .html (default: WHAT.png)")
    show.set_defaults(run=_show)

    embed = commands.add_parser(
        "embed",
        help="features of every image of a folder, with its name, as one file",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=EMBED,
    )
    _add_encoder(embed)
    embed.add_argument("--data", required=True, help="a folder of images, or a data set's name")
    embed.add_argument(
        "--out", required=True, metavar="FILE", help="ends in .npz, .parquet or .csv"
    )
    embed.add_argument(
        "--patches", action="store_true", help="patch tokens too, in float16; for .npz"
    )
    embed.add_argument("--size", type=int, help="side of the images (default: the encoder's)")
    embed.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    embed.set_defaults(run=_embed)

    classify = commands.add_parser(
        "classify",
        help="k-NN and a linear classifier for one's own classes",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=CLASSIFY,
    )
    _add_encoder(classify)
    classify.add_argument(
        "--data", required=True, help="a folder of images by class, or an .npz that embed made"
    )
    classify.add_argument("--predict", metavar="FOLDER", help="name the classes of these, too")
    classify.add_argument("--out", default="predictions.csv", help="(default: predictions.csv)")
    classify.add_argument("--k", type=int, help="neighbours (default: 20, or all of fewer)")
    classify.add_argument("--size", type=int, help="side of the images (default: the encoder's)")
    classify.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    classify.set_defaults(run=_classify)

    export = commands.add_parser(
        "export",
        help="the backbone for timm, transformers, ONNX or safetensors",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=EXPORT,
    )
    export.add_argument("run_folder", metavar="RUN", help="the folder of a run")
    export.add_argument(
        "--to", choices=("safetensors", "timm", "hf", "onnx"), default="safetensors"
    )
    export.add_argument("--out", required=True, help="the file to write; of timm and hf, a folder")
    export.set_defaults(run=_export)

    grade = commands.add_parser("grade", help="run submitted notebooks, grade their exercises")
    grade.add_argument("folder", metavar="FOLDER", help="searched for *.ipynb")
    grade.add_argument("--out", default="grades.csv", help="(default: grades.csv)")
    grade.add_argument("--timeout", type=float, default=120, help="seconds each (default: 120)")
    grade.add_argument("--memory", type=float, default=4, help="GiB each (default: 4)")
    grade.add_argument("--jobs", type=int, default=1, help="notebooks at once (default: 1)")
    grade.add_argument("--chapter", help="whose exercises count, or all (default: what was tried)")
    grade.set_defaults(run=_grade)

    assignment = commands.add_parser("assignment", help="write notebooks of exercises to hand out")
    assignment.add_argument("chapter", metavar="CHAPTER", help="a chapter's file name, or all")
    assignment.add_argument("--out", required=True, metavar="FOLDER")
    assignment.add_argument("--format", choices=("plain", "nbgrader", "otter"), default="plain")
    assignment.set_defaults(run=_assignment)

    curate = commands.add_parser("curate", help="choose images of a pool: no copies, balanced")
    curate.add_argument("--pool", required=True, help="patterns, scenes, a folder, or a data set")
    curate.add_argument("--seeds", help="curated images to retrieve around, named as a pool is")
    curate.add_argument("--evaluation", help="images to keep out: a folder or a set's test split")
    curate.add_argument(
        "--weights",
        default="pixels",
        help="features to retrieve with: a run, a released model, a file, or pixels (default)",
    )
    curate.add_argument("--out", required=True, metavar="FOLDER")
    curate.add_argument("--limit", type=int, help="at most this many images of the pool")
    curate.add_argument("--shards", action="store_true", help="also write the images chosen")
    curate.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    curate.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="e.g. --set size=5000 --set similarity=0.8",
    )
    curate.set_defaults(run=_curate)

    settings = commands.add_parser("settings", help="print a preset's complete settings")
    settings.add_argument("method")
    settings.add_argument("--data", default="scenes", help="for this data set")
    settings.add_argument("--preset", default="laptop")
    settings.add_argument("--explain", action="store_true", help="say what each of them does")
    settings.set_defaults(run=_settings)

    methods = commands.add_parser("methods", help="list the methods, each in a sentence")
    methods.set_defaults(run=_methods)

    doctor = commands.add_parser("doctor", help="versions, device, memory: for a bug report")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_encoder(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "encoder",
        metavar="ENCODER",
        help="a run's folder, a released model's name, or a file of weights",
    )


def _add_training_options(command: argparse.ArgumentParser, name: str) -> None:
    command.add_argument("--preset", help="smoke, laptop (default), gpu, photo or paper")
    command.add_argument("--name", help=f"the run's name (default: {name})")
    command.add_argument("--folder", help="where runs are kept (default: runs)")
    command.add_argument("--seed", type=int, help="of all randomness (default: 0)")
    command.add_argument("--device", help="auto (default), cpu, cuda or mps")
    command.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        choices=("auto",),
        help="continue the newest such run; --resume=auto starts it if there is none",
    )
    command.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one setting, e.g. --set train.epochs=20 (dino-tutorial settings lists them)",
    )


# Each command imports what it needs when it runs: torch takes seconds, --help should not.


def _train(options: argparse.Namespace) -> int:
    from dino_tutorial.options import parse_assignments
    from dino_tutorial.runs import configure, train
    from dino_tutorial.runs.resume import is_started, is_unfinished, resumed_config
    from dino_tutorial.training.loop import Interrupted

    own = {key: getattr(options, key) for key in ("folder", "name", "seed", "device")}
    own = {key: value for key, value in own.items() if value is not None}
    assigned = parse_assignments(options.changes)
    for key in own.keys() & assigned.keys():
        if own[key] != assigned[key]:
            raise UserError(
                f"--{key} {own[key]} and --set {key}={assigned[key]} differ: give one of them"
            )
    changes = own | assigned
    data = "scenes" if options.data is None else options.data
    preset = "laptop" if options.preset is None else options.preset
    config = configure(options.method, data, preset, changes)
    resume = is_started(config) if options.resume == "auto" else options.resume
    if resume and (_is_main_process() or is_started(config)):  # others need not see its folder
        config = resumed_config(config, options.data, options.preset, changes)
    try:
        run = train(config, resume=resume)
    except Interrupted as stop:
        return _continue_by(f"{stop}; everything is saved", config, options, 130)
    except (KeyboardInterrupt, Terminated) as stop:  # not between two steps
        if not is_unfinished(config):
            raise
        code = 130 if isinstance(stop, KeyboardInterrupt) else 143
        return _continue_by("stopped", config, options, code)
    if _is_main_process():
        print(_table(run.summary))
        print(f"run     {run.folder}\nreport  {run.report}")
    return 0


def _distill(options: argparse.Namespace) -> int:
    from dino_tutorial.runs.build import teacher_run

    if options.data is None:
        options.data = teacher_run(options.teacher).config.source
    options.changes.insert(0, f"objective.teacher={json.dumps(str(options.teacher))}")
    options.method = "distill"
    return _train(options)


def _continue_by(what: str, config: "Config", options: argparse.Namespace, code: int) -> int:
    """What happened, and the command that goes on from there; returns the exit code."""
    words = ["train", config.method, "--data", config.source, "--preset", config.preset]
    again = shlex.join(["dino-tutorial", *words, *_repeat(options), "--resume"])
    if _is_main_process():
        print(f"{what}. Continue with:\n  {again}", file=sys.stderr)
    return code


def _repeat(options: argparse.Namespace) -> list[str]:
    """The options of a train command that were given."""
    words = []
    for flag in ("name", "folder", "seed", "device"):
        value = getattr(options, flag)
        words += [] if value is None else [f"--{flag}", str(value)]
    for change in options.changes:
        words += ["--set", change]
    return words


def _evaluate(options: argparse.Namespace) -> int:
    from dino_tutorial.runs import evaluate, load_run

    run = load_run(options.run_folder)
    results = evaluate(
        run,
        options.data,
        k=options.k,
        temperature=options.temperature,
        probe=options.linear,
        dense=options.dense,
        device=options.device,
        limit=options.limit,
        image_size=options.size,
    )
    if options.save:
        run.save_evaluation(results)
    print(_table(results))
    return 0


def _record(options: argparse.Namespace) -> int:
    from dino_tutorial.runs import load_run, record

    target = record(load_run(options.run_folder), options.into, options.name, options.weights)
    print(f"recorded in {target}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from dino_tutorial.runs import load_run
    from dino_tutorial.runs.report import report_again

    print(report_again(load_run(options.run_folder)))
    return 0


def _show(options: argparse.Namespace) -> int:
    from dino_tutorial.models.released import RELEASED, suggest
    from dino_tutorial.runs import load_run
    from dino_tutorial.runs.show import show

    path = f"{options.what}.png" if options.out is None else options.out
    released = options.seen_by in RELEASED or options.seen_by in RELEASED.values()
    if not released and not Path(options.seen_by).exists():
        raise UserError(
            f"{options.seen_by} is not a run's folder: give one that train made, or the name of a "
            f"released model{suggest(options.seen_by)}"
        )
    run = options.seen_by if released else load_run(options.seen_by)
    figure = show(run, options.what, path, options.data, options.n, options.size)
    print(f"{figure.alt_text}\n{path}")
    return 0


def _embed(options: argparse.Namespace) -> int:
    from dino_tutorial.runs.embed import embed
    from dino_tutorial.runs.encoders import open_encoder

    try:
        told = embed(
            open_encoder(options.encoder),
            options.data,
            options.out,
            patches=options.patches,
            image_size=options.size,
            device=options.device,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(GO_ON) from None
    if told:
        print(told)
    return 0


def _classify(options: argparse.Namespace) -> int:
    from dino_tutorial.runs.classify import classify
    from dino_tutorial.runs.encoders import open_encoder

    found = classify(
        open_encoder(options.encoder),
        options.data,
        options.predict,
        options.out,
        k=options.k,
        image_size=options.size,
        device=options.device,
    )
    print(f"{'k-NN':<26}{_percent(found.knn):>10}")
    print(f"{'linear classifier':<26}{_percent(found.linear):>10}")
    print(f"{'the most frequent class':<26}{_percent(found.majority):>10}")
    print(
        f"fitted to {found.fitted:,} images of {found.classes} classes, measured on "
        f"{found.measured:,} others"
    )
    if options.predict is not None:
        print(f"classes of {found.predicted:,} images: {options.out}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from dino_tutorial.runs import load_run
    from dino_tutorial.runs.export import export

    print(export(load_run(options.run_folder), options.to, options.out))
    return 0


def _grade(options: argparse.Namespace) -> int:
    from dino_tutorial.grading import grade_folder

    graded = grade_folder(
        options.folder,
        options.out,
        options.timeout,
        options.memory,
        options.jobs,
        options.chapter,
    )
    for one in graded:
        print(f"{one.submission:<40} {one.score:>3}  {one.status:<11}{one.reason}")
    print(f"grades of {len(graded)} notebooks written to {options.out}")
    return 0


def _assignment(options: argparse.Namespace) -> int:
    from dino_tutorial.exercises.assignment import write_assignments

    for path in write_assignments(options.chapter, options.out, options.format):
        print(path)
    return 0


def _curate(options: argparse.Namespace) -> int:
    from dino_tutorial.curation import CurationSettings
    from dino_tutorial.curation.command import curate_pool, describe_summary
    from dino_tutorial.options import parse_assignments, replace_options

    words = ["dino-tutorial", "curate"]
    for name in ("pool", "seeds", "evaluation", "weights", "out", "limit"):
        value = getattr(options, name)
        words += [f"--{name}", str(value)] if value is not None else []
    for change in options.changes:
        words += ["--set", change]
    try:
        summary = curate_pool(
            options.pool,
            options.out,
            seeds=options.seeds,
            weights=options.weights,
            evaluation=options.evaluation,
            limit=options.limit,
            shards=options.shards,
            device=options.device,
            options=replace_options(CurationSettings(), parse_assignments(options.changes)),
            command=shlex.join(words),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(GO_ON) from None
    if summary:
        print(describe_summary(summary))
        out = Path(options.out)
        print(f"chosen  {out / 'selected.txt'}\nreport  {out / 'report.html'}")
    return 0


def _settings(options: argparse.Namespace) -> int:
    from dino_tutorial.runs import configure

    config = configure(options.method, options.data, options.preset)
    if options.explain:
        print(_explained(config))
    else:
        print(config.dump(), end="")
    return 0


def _explained(config: Any) -> str:
    """Each setting with its value, what it does, and the values that it may have."""
    from dino_tutorial.options import describe

    width = min(shutil.get_terminal_size().columns, 100)
    lines = []
    for one in describe(config):
        lines.append(f"{one.key} = {json.dumps(one.value)}")
        bounds = f" Values: {one.bounds}." if one.bounds else ""
        text = textwrap.fill(one.help + bounds, width - 4)
        lines.append(textwrap.indent(text, "    "))
    return "\n".join(lines)


def _methods(options: argparse.Namespace) -> int:
    from dino_tutorial.methods import METHODS, help_of

    for name in METHODS:
        print(f"{name:<12}{help_of(name)}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from dino_tutorial.runs.doctor import examine

    print(examine())
    return 0


def _is_main_process() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"


def _table(summary: dict) -> str:
    """The numbers that matter, aligned; the learned encoder first, its baselines beside it."""
    rows = [
        ("k-NN, learned features", _percent(summary.get("knn_top1"))),
        ("k-NN, untrained encoder", _percent(summary.get("knn_random_init"))),
        ("k-NN, colour histogram", _percent(summary.get("knn_color_histogram"))),
        ("k-NN, raw pixels", _percent(summary.get("knn_raw_pixels"))),
        ("linear probe", _percent(summary.get("linear_top1"))),
        *_dense_rows(summary),
        ("final loss", _number(summary.get("final_loss"))),
        ("ln K", _number(summary.get("ln_k"))),
        ("teacher entropy", _number(summary.get("teacher_entropy"))),
        ("training seconds", _number(summary.get("train_seconds"), 1)),
        ("images per second", _rate(summary.get("images_per_second"))),
    ]
    shown = [(name, value) for name, value in rows if value]
    return "\n".join(f"{name:<26}{value:>10}" for name, value in shown)


def _dense_rows(summary: dict) -> list[tuple[str, str]]:
    baselines = {
        "learned": "",
        "untrained": "_random_init",
        "pixels": "_raw_pixels",
        "mean": "_mean",
    }
    rows = []
    for measure, name, show in (
        ("mIoU", "miou", _percent),
        ("depth RMSE", "depth_rmse", _number),
        ("depth delta1", "depth_delta1", _percent),
    ):
        rows += [
            (f"{measure}, {who}", show(summary.get(name + key))) for who, key in baselines.items()
        ]
    return rows


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _rate(value: float | None) -> str:
    """A large encoder on a processor takes seconds an image."""
    return "" if value is None else f"{value:.{0 if value >= 10 else 1}f}"


if __name__ == "__main__":
    sys.exit(main())
