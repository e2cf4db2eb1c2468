"""Make the records that want a GPU, in slices of at most ten minutes that resume each other.

    make gpu-records                          # one slice, on the GPU that is there
    make gpu-records SLICES=30                # up to thirty, one after the other
    make gpu-records SIZE=smoke DEVICE=cpu    # all of them at smoke size, for a trial

tools/gpu_records.yaml names the runs. Each is trained, measured and recorded, unless its record is
there; what does not fit in the device's memory is left out. Scripts stand in the list too: some
make images that runs are trained on, some measure without a run. A slice that ends stops the
training at its next checkpoint, from which the next slice goes on; a script begins anew. At last
data/cards/gpu.md is written again, the table of what has been recorded. The trial works and records
in _build/gpu-records.

It says how many records are there, and ends with 1 if a run failed or does not fit.
"""

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dino_tutorial import cli
from dino_tutorial.errors import UserError
from dino_tutorial.files import write_text
from dino_tutorial.runs import configure, load_run
from dino_tutorial.runs.adapt import simulated, usable_memory
from dino_tutorial.runs.environment import choose_device

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tools" / "gpu_records.yaml"
MARGIN = 30.0  # seconds of a slice that are kept for the last step and its checkpoint
GIB = 2**30
DONE, LEFT, FAILED = "done", "left", "failed"
STOPPED = 130  # the command line's exit code after Ctrl-C
# Of a run's settings, what its smoke size keeps: what it is about, and nothing that takes long.
AT_SMOKE = ("objective.", "train.init")
NOT_AT_SMOKE = ("_dim", "_epochs")
SMOKE = {"train.steps": 4, "train.eval_every": 1000, "data.limit": 200}
MADE = "made.txt"  # in a script's folder, once it has come to its end
BEGIN, END = "<!-- records begin -->", "<!-- records end -->"
CARD = f"""\
# Records made on a GPU

`make gpu-records` makes them, in slices of at most ten minutes, and writes this table out of
`data/results`. Its list is `tools/gpu_records.yaml`. k-NN (with 20 neighbours, and with 200) and
linear probe are accuracies on the test images; minutes, images a second and memory are the
training's. What scripts measure stands in their `summary.json`.

{BEGIN}
{END}
"""


@dataclass(frozen=True)
class Wanted:
    """One run of the list, for one seed; or a script, which has ``words`` and no method.

    Attributes:
        words: of a script, what Python is called with.
        makes_images: the script makes a folder to train on and no record.
    """

    name: str
    shows: str
    method: str = ""
    seed: int = 0
    data: str = "scenes"
    preset: str = "gpu"
    changes: dict[str, Any] = field(default_factory=dict)
    eval: tuple[str, ...] | None = None
    weights: bool = False
    words: tuple[str, ...] = ()
    makes_images: bool = False


@dataclass(frozen=True)
class Places:
    """Where runs are trained and records kept, and on which device."""

    runs: Path
    results: Path
    card: Path
    device: str

    def is_recorded(self, wanted: Wanted) -> bool:
        return self.mark(wanted).exists()

    def mark(self, wanted: Wanted) -> Path:
        """What is there once nothing is left to be done."""
        if wanted.makes_images:
            return self.runs / wanted.name / MADE
        return self.results / wanted.name / (MADE if wanted.words else "summary.json")


def read_list(path: Path, places: Places, smoke: bool, data: dict[str, str]) -> list[Wanted]:
    """The runs of a list, one for each seed, in its order.

    Args:
        path: of the list.
        places: whose folder of runs the settings refer to.
        smoke: as small as possible.
        data: folders that stand in for data sets, by their names.
    """
    wanted = []
    for entry in yaml.safe_load(path.read_text()):
        if "script" in entry:
            wanted += _script(entry, places, smoke, data)
            continue
        for seed in entry.get("seeds", [0]):
            changes = {
                key: _place(value, seed, places) for key, value in entry.get("set", {}).items()
            }
            name = _place(entry.get("data", "scenes"), seed, places)
            run = Wanted(
                name=f"{entry['name']}-s{seed}",
                shows=entry["shows"],
                method=entry["method"],
                seed=seed,
                data=data.get(name, name),
                preset=entry.get("preset", "gpu"),
                changes=changes,
                eval=tuple(entry["eval"]) if "eval" in entry else None,
                weights=entry.get("weights", False),
            )
            is_made = entry.get("data", "").startswith("made:")
            wanted.append(_at_smoke_size(run, is_made) if smoke else run)
    return wanted


def _place(value: Any, seed: int, places: Places) -> Any:
    if isinstance(value, str) and value.startswith("run:"):
        return str(places.runs / f"{value.removeprefix('run:')}-s{seed}")
    if isinstance(value, str) and value.startswith("made:"):
        return str(places.runs / value.removeprefix("made:"))
    return value


def _script(
    entry: dict[str, Any], places: Places, smoke: bool, data: dict[str, str]
) -> list[Wanted]:
    """A script of the list; none if it is of images that nobody has named."""
    images = entry.get("images")
    if images is not None and images not in data:
        print(f"{entry['name']}: left out, for it wants --data {images}=FOLDER", file=sys.stderr)
        return []
    makes_images = entry.get("makes_images", False)
    own = {
        "OUT": str((places.runs if makes_images else places.results) / entry["name"]),
        "DEVICE": places.device,
        "IMAGES": data.get(images, ""),
    }
    words = [*entry["script"], *(entry.get("at_smoke", []) if smoke else [])]
    words = [own.get(word, _place(word, 0, places)) for word in words]
    made = {"words": tuple(words), "makes_images": makes_images}
    return [Wanted(entry["name"], entry["shows"], data="", **made)]


def _at_smoke_size(run: Wanted, is_made: bool) -> Wanted:
    kept = {
        key: value
        for key, value in run.changes.items()
        if key.startswith(AT_SMOKE) and not key.endswith(NOT_AT_SMOKE)
    }
    own = {"name": run.name, "shows": run.shows, "method": run.method, "seed": run.seed}
    own |= {"data": run.data} if is_made else {}
    few = (*run.eval, "--limit", "200") if run.eval and "--data" in run.eval else run.eval
    return Wanted(**own, preset="smoke", changes=kept | SMOKE, eval=few, weights=run.weights)


def lacks_memory(run: Wanted, device: str) -> str | None:
    """Why a run does not fit on a device, two images at a time; None if it does."""
    there = choose_device(device)
    if run.words:
        return None
    config = configure(run.method, run.data, run.preset, run.changes | {"seed": run.seed})
    needed, usable = simulated(config, 1000, there).bytes(2), usable_memory(there)
    if needed <= usable:
        return None
    return f"two images need {needed / GIB:.1f} GiB, and {usable / GIB:.1f} are usable"


def commands(run: Wanted, places: Places) -> Iterator[list[str]]:
    """What is still to be done for a run, as words for the command line or for Python."""
    folder = places.runs / run.name
    if run.words:
        yield ["python", *run.words]
        write_text(places.mark(run), "The script has come to its end.\n")
        return
    if not (folder / "summary.json").exists():
        sets = run.changes | {"train.adapt": True, "train.batch_size": _batch(run)}
        yield [
            *("train", run.method, "--data", run.data, "--preset", run.preset),
            *("--name", run.name, "--folder", str(places.runs), "--seed", str(run.seed)),
            *("--device", places.device, "--resume=auto"),
            *(word for key, value in sets.items() for word in ("--set", f"{key}={_yaml(value)}")),
        ]
    if run.eval is not None and not (folder / "evaluation.json").exists():
        yield ["eval", str(folder), "--save", "--device", places.device, *run.eval]
    yield [
        *("record", str(folder), "--into", str(places.results)),
        *(("--weights",) if run.weights else ()),
    ]


def execute(words: list[str]) -> int:
    """Run the command line, or a script, which a slice that ends takes along; its exit code."""
    if words[0] != "python":
        return cli.main(words)
    return subprocess.run([sys.executable, *words[1:]], cwd=ROOT).returncode


def _batch(run: Wanted) -> int:
    """The batch is what it is, on every device; the parts that it is run in are not."""
    return configure(run.method, run.data, run.preset, run.changes).train.batch_size


def _yaml(value: Any) -> str:
    return json.dumps(value)


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """As if Ctrl-C were pressed after so many seconds; a training saves its state then."""

    def stop(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    # A shell has what it starts in the background ignore Ctrl-C.
    handlers = {signal.SIGALRM: stop, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def work(run: Wanted, places: Places, seconds: float, command: Callable[..., int]) -> str:
    """Go on with a run for so many seconds: DONE, LEFT or FAILED."""
    try:
        with stopped_after(seconds):
            for words in commands(run, places):
                code = command(words)
                if code:
                    return LEFT if code == STOPPED else FAILED
    except KeyboardInterrupt:  # between two commands
        return LEFT
    return DONE


def one_slice(
    wanted: list[Wanted],
    places: Places,
    seconds: float,
    failed: dict[str, str],
    command: Callable[..., int] = execute,
) -> bool:
    """Go on with the list for so many seconds; whether anything is left for another slice.

    Args:
        wanted: the list.
        places: where.
        seconds: of the slice.
        failed: reasons by name; what is in it is passed over, and what fails is put in.
        command: the command line.
    """
    ends = time.monotonic() + seconds
    for run in wanted:
        if places.is_recorded(run) or run.name in failed:
            continue
        if time.monotonic() > ends - MARGIN:
            return True
        try:
            reason = lacks_memory(run, places.device)
        except UserError as error:
            reason = str(error)
        if reason is not None:
            failed[run.name] = reason
            continue
        print(f"{run.name} ({run.shows})", flush=True)
        before = _progress(run, places)
        outcome = work(run, places, ends - MARGIN - time.monotonic(), command)
        if outcome == LEFT and _progress(run, places) == before:
            outcome = _whole_slice_for_nothing(run, wanted, places, failed)
        if outcome == LEFT:
            return True
        if outcome == FAILED:
            failed.setdefault(run.name, "see what it said above")
    return False


def _progress(run: Wanted, places: Places) -> list[tuple[str, int]]:
    """What tells whether a slice has brought a run on: its files and when they were written."""
    kept = ("checkpoint.pt", "summary.json", "evaluation.json")
    paths = [places.runs / run.name / name for name in kept]
    return [(path.name, path.stat().st_mtime_ns) for path in paths if path.exists()]


def _whole_slice_for_nothing(
    run: Wanted, wanted: list[Wanted], places: Places, failed: dict[str, str]
) -> str:
    first = next(r for r in wanted if not places.is_recorded(r) and r.name not in failed)
    if run is not first:  # it had the rest of a slice that others had begun
        return LEFT
    failed[run.name] = "a part of it that cannot be divided takes longer than a slice"
    return FAILED


def write_card(wanted: list[Wanted], places: Places) -> None:
    """The table of what has been recorded, in place of the one that the card has."""
    columns = "record | shows | device | steps | minutes | images/s | GiB | k-NN | k = 200 | linear"
    there = [run for run in wanted if places.is_recorded(run) and not run.makes_images]
    rows = [_row(run, places.results / run.name) for run in there]
    table = "\n".join([f"| {columns} |", "|---" * 10 + "|", *rows])
    if not rows:
        table = "No GPU has run the list yet."
    text = places.card.read_text() if places.card.exists() else CARD
    before, _, rest = text.partition(BEGIN)
    places.card.parent.mkdir(parents=True, exist_ok=True)
    places.card.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")


def _row(run: Wanted, folder: Path) -> str:
    if run.words:  # what it has measured stands in its summary.json
        device = json.loads((folder / "environment.json").read_text())["device"]
        return f"| `{run.name}` | {run.shows} | {device} |{' – |' * 7}"
    record = load_run(folder)
    timings = record.timings[1:] or record.timings  # the first has what is done once in it
    rates = [row["images_per_second"] for row in timings]
    memory = max((row.get("memory_mib", 0) for row in timings), default=0)
    evaluations = record.evaluations.values()
    linear = [e["linear_top1"] for e in evaluations if "linear_top1" in e]
    own = [e["knn_top1"] for e in evaluations if e.get("k") == 20]
    wider = [e["knn_top1"] for e in evaluations if e.get("k") == 200]
    cells = [
        f"`{run.name}`",
        run.shows,
        record.environment["device"],
        f"{record.summary['steps']:,}",
        f"{record.summary['train_seconds'] / 60:.1f}",
        f"{statistics.median(rates):,.0f}" if rates else "–",
        f"{memory / 1024:.1f}" if memory else "–",
        _percent(own[0] if own else record.summary.get("knn_top1")),
        _percent(wider[0] if wider else None),
        _percent(linear[0] if linear else None),
    ]
    return f"| {' | '.join(cells)} |"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make gpu-records", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=("full", "smoke"), default="full")
    parser.add_argument("--device", default="cuda", help="(default: cuda)")
    parser.add_argument("--seconds", type=float, default=600, help="of a slice (default: 600)")
    parser.add_argument("--slices", type=int, default=1, help="at most so many (default: 1)")
    parser.add_argument(
        "--data", action="append", default=[], metavar="NAME=FOLDER", help="in place of a data set"
    )
    parser.add_argument("--list", type=Path, default=LIST, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    trial, smoke = options.into or ROOT / "_build" / "gpu-records", options.size == "smoke"
    places = Places(ROOT / "runs", ROOT / "data/results", ROOT / "data/cards/gpu.md", "")
    if smoke:
        places = Places(trial / "runs", trial / "results", trial / "gpu.md", "")
    places = Places(places.runs, places.results, places.card, options.device)
    try:
        choose_device(options.device)
        data = dict(pair.split("=", 1) for pair in options.data)
        wanted = read_list(options.list, places, smoke, data)
    except UserError as error:
        print(f"make gpu-records: {error}", file=sys.stderr)
        return 2
    failed: dict[str, str] = {}
    left = True
    for _ in range(options.slices):
        left = left and one_slice(wanted, places, options.seconds, failed)
        write_card(wanted, places)
    for name, reason in failed.items():
        print(f"{name}: not made: {reason}", file=sys.stderr)
    done = sum(places.is_recorded(run) for run in wanted)
    print(f"{done} of {len(wanted)} records are there{'; run it again' if left else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
