"""The training loop: views in, loss out, teacher after student, for any method."""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from dino_tutorial.datasets import ImageDataset
from dino_tutorial.errors import UserError
from dino_tutorial.methods import Method
from dino_tutorial.methods.schedules import cosine_schedule
from dino_tutorial.models import VisionTransformer
from dino_tutorial.parallel import Processes, mean_over_processes
from dino_tutorial.seeds import Stream, mix
from dino_tutorial.training.batches import STOPS, Batch, BatchOrder, batches
from dino_tutorial.training.checkpoint import CURRENT, KINDS, save_checkpoint
from dino_tutorial.training.health import (
    check_finite,
    check_teacher_is_a_copy,
    diagnose,
    first_not_finite,
    weights_diverged,
)
from dino_tutorial.training.log import Clock, RowLog
from dino_tutorial.training.optim import (
    build_optimizer,
    clip_gradients,
    clip_modules,
    param_groups,
    peak_learning_rate,
    set_learning_rate,
    split_by_module,
)
from dino_tutorial.training.precision import autocast, fast_float32, loss_scaler
from dino_tutorial.training.settings import OptimSettings, TrainSettings
from dino_tutorial.training.sharding import gathered, shard, sharded_like, without_reduction
from dino_tutorial.training.threads import Threads, threads_restored
from dino_tutorial.training.trackers import open_tracker
from dino_tutorial.views import Augment, PatchMasks

if TYPE_CHECKING:  # not while running: most versions of tqdm take no type
    Bar = tqdm[Batch]
else:
    Bar = tqdm

# Seconds within which signals count as one: torchrun hands on what all its processes get anyway.
ONE_SIGNAL = 0.5


def warn_on_stderr(sentence: str) -> None:
    """A sentence above the progress bar, on the stream that is there now."""
    tqdm.write(sentence, file=sys.stderr)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; everything up to ``step`` is saved."""

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step}")
        self.step = step


@dataclass
class Trainer:
    """One method, its optimizer and its place in training; all that a checkpoint has to hold.

    Args:
        method: already on ``device``.
        augment: draws and applies its views.
        dataset: images to learn from; their labels go to a method that ``needs_labels`` alone.
        optim, train: the ``optim`` and ``train`` settings of the configuration.
        folder: where rows and checkpoints go.
        evaluate: called every ``train.eval_every`` steps; its numbers join the row.
    """

    method: Method
    augment: Augment
    dataset: ImageDataset
    optim: OptimSettings
    train: TrainSettings
    seed: int
    device: torch.device
    folder: Path
    processes: Processes = Processes()
    evaluate: Callable[[], dict[str, float]] | None = None
    warn: Callable[[str], None] = warn_on_stderr
    step: int = 0
    clock: Clock = field(default_factory=Clock)
    warnings: list[str] = field(default_factory=list)
    log_sizes: tuple[int, int] = (0, 0)  # bytes of metrics and timings that belong to ``step``

    def __post_init__(self) -> None:
        if self.method.teacher is not None:
            check_teacher_is_a_copy(self.method.student, self.method.teacher)
        self.engine = self._engine()
        self.steps_of_epoch = self.train.steps_of_epoch(len(self.dataset))
        self.total_steps = self.train.total_steps(len(self.dataset))
        self.order = BatchOrder(
            len(self.dataset),
            self.train.batch_size,
            self.total_steps,
            self.seed,
            rank=self.processes.rank,
            world=self.processes.world,
        )
        self._check_freeze()
        self.schedules = self._schedules(self.steps_of_epoch)
        groups = param_groups(
            self.method,
            self.optim.weight_decay,
            self.optim.layer_decay,
            self.optim.patch_embed_lr_mult,
        )
        self.optimizer = build_optimizer(self.optim.name, groups, lr=0.0)
        sharded = self.train.sharding == "fsdp"
        self.scaler = loss_scaler(self.train.precision, self.device, self.optimizer, sharded)
        self.parameters = [p for group in groups for p in group["params"]]
        self.modules = split_by_module(self.method)
        if self.train.checkpoint_activations:
            self._checkpoint_activations()
        self.rows: list[dict[str, Any]] = []
        self.threads, self.told_of_threads = Threads(self.device), False

    @property
    def seconds(self) -> float:
        """Spent on all steps so far, earlier sessions included."""
        return self.clock.seconds

    def fit(self) -> None:
        """Train from ``step`` to the end; on Ctrl-C save, then raise :class:`Interrupted`."""
        metrics, timings = self._logs()
        logger = self.train.logger if self.processes.is_main else "none"
        self.rows = metrics.rows()
        self.method.train()
        self.clock.start(self.step)
        with (
            interruptible() as interrupted,
            fast_float32(self.device),
            threads_restored(),
            closing(open_tracker(logger, self.folder, self.step)) as tracker,
            self._bar() as bar,
        ):
            for batch in bar:
                logged = self._due(self.train.log_every)
                values = {name: table[self.step] for name, table in self.schedules.items()}
                with self.threads:
                    measured = self._step(batch, values, logged)
                    self.method.after_step(values)
                self._tell_of_threads()
                if logged:
                    row = self._row(measured, values)
                    bar.set_postfix(self._postfix(row), refresh=False)
                self.step += 1
                self.clock.tick()
                if logged:
                    metrics.write(row)
                    tracker.log(row)
                    timings.write(self._timing())
                finished = self.step == self.total_steps
                stops = self._agree(interrupted(), logged)
                if finished or stops or self.step % self.train.checkpoint_every == 0:
                    self._save(metrics, timings)
                if stops and not finished:
                    raise Interrupted(self.step)

    def _logs(self) -> tuple[RowLog, RowLog]:
        """The files of metrics and timings, cut back to where ``step`` left them."""
        names = ("metrics.jsonl", "timings.jsonl")
        metrics, timings = (
            RowLog(self.folder / name, size, self.processes.is_main, self.warn)
            for name, size in zip(names, self.log_sizes, strict=True)
        )
        return metrics, timings

    def _bar(self) -> Bar:
        """The batches that are left, counted on the screen of the main process."""
        order = self.order.since(self.step)
        left = batches(self.dataset, order, self.device, self.train.workers)
        if not self.processes.is_main:
            return tqdm(left, disable=True)
        return tqdm(
            left,
            total=self.total_steps,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5,
        )

    def _tell_of_threads(self) -> None:
        if self.threads.changes and not self.told_of_threads:
            self.told_of_threads = True
            self.warn(
                f"step {self.step}: other work keeps the processor busy, so one thread goes on "
                f"alone and all {self.threads.most} are tried again later (threads in "
                f"timings.jsonl)."
            )

    def _save(self, metrics: RowLog, timings: RowLog) -> None:
        self._check_weights(self.step)
        for log in (metrics, timings):
            log.sync()
        state = self.state(metrics.size, timings.size)
        if self.processes.is_main:
            save_checkpoint(self.folder, state)

    def _check_weights(self, steps: int) -> None:
        """Never let weights that are no numbers replace a checkpoint, or be measured.

        All processes have to call it together; each looks at its own part.

        Raises:
            TrainingDiverged: some are, after so many steps.
        """
        parts = {"method": self.method.state_dict(), "optimizer": self.optimizer.state_dict()}
        name = first_not_finite(parts)
        bad = torch.tensor(float(name is not None), device=self.device)
        if mean_over_processes(bad).item() > 0:
            kept = (self.folder / CURRENT).exists()
            raise weights_diverged(name or "another process's weights", steps - 1, kept)

    def _step(
        self, batch: Batch, values: dict[str, float], measure: bool
    ) -> dict[str, Float[Tensor, ""]]:
        """Views, loss, gradients, update. All randomness of a step comes from (seed, step)."""
        views_seed = torch.Generator().manual_seed(mix(self.seed, Stream.VIEWS, self.step))
        torch.manual_seed(mix(self.seed, Stream.DROP_PATH, self.step, self.processes.rank))
        set_learning_rate(self.optimizer, values["lr"], values["weight_decay"])
        images, labels, sizes = batch
        heights, widths = sizes.unbind(1)
        params = self.augment.sample(
            self.train.batch_size, heights, widths, views_seed, self.order.share
        )
        masks_seed = torch.Generator().manual_seed(mix(self.seed, Stream.MASKS, self.step))
        masks = self.method.draw_masks(self.train.batch_size, masks_seed)
        size = len(images) // self.train.accumulate
        self._set_mode()
        micro_metrics = []
        for part in range(self.train.accumulate):
            chosen = slice(part * size, (part + 1) * size)
            last = part + 1 == self.train.accumulate
            with nullcontext() if last else self._no_sync():
                with torch.no_grad():
                    views = self.augment.apply(images[chosen], params[chosen])
                asked: dict[str, Tensor | PatchMasks] = {}
                if self.method.needs_labels:
                    asked["labels"] = labels[chosen]
                if masks is not None:
                    asked["masks"] = masks[self.order.share][chosen].to(self.device)
                with autocast(self.train.precision, self.device):
                    metrics = self.engine(views, values, measure, **asked)
                self.scaler.scale(metrics["loss"] / self.train.accumulate).backward()
            micro_metrics.append({name: value.detach() for name, value in metrics.items()})
        if self.step < self.train.freeze_backbone_steps:
            for parameter in self.method.student.backbone.parameters():
                parameter.grad = None  # what has none is not moved, nor decayed
        self.scaler.unscale_(self.optimizer)
        grad_norm = self._clip()
        self.method.before_step(self.step / self.steps_of_epoch)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        means = {n: torch.stack([m[n] for m in micro_metrics]).mean() for n in micro_metrics[0]}
        return means | {"grad_norm": grad_norm}

    def _set_mode(self) -> None:
        """Frozen backbones are in evaluation mode: their running statistics stay, too."""
        if self.step == self.train.freeze_backbone_steps:
            self.method.train()
        elif self.step < self.train.freeze_backbone_steps:
            for backbone in self.method.backbones:
                backbone.eval()

    def _check_freeze(self) -> None:
        frozen = self.train.freeze_backbone_steps
        if frozen and frozen >= self.total_steps:
            raise UserError(
                f"train.freeze_backbone_steps = {frozen} leaves the backbone as it is to the end "
                f"of the run, which has {self.total_steps} steps: freeze it for fewer"
            )

    def state(self, metrics_size: int, timings_size: int) -> dict[str, Any]:
        """Everything that :meth:`restore` needs; random state is a function of seed and step.

        Tensors are full, however the training is sharded; all processes have to call it.
        """
        keep = self.processes.is_main
        return {
            "step": self.step,
            "seconds": self.clock.seconds,
            "log_sizes": [metrics_size, timings_size],
            "warnings": self.warnings,
            "data": self.dataset.fingerprint(),
            "method": gathered(self.method.state_dict(), keep),
            "optimizer": gathered(self.optimizer.state_dict(), keep),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`, as if nothing had happened in between.

        Raises:
            UserError: the state is not whole, or is of another training or of other images.
        """
        self._check_state(state)
        self._check_images(state.get("data"))
        try:
            self._load_method(state["method"])
            self._load_optimizer(state["optimizer"])
            if self.scaler.is_enabled() and state.get("scaler"):  # older versions had none
                self.scaler.load_state_dict(state["scaler"])
        except UserError:
            raise
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"the checkpoint in {self.folder} belongs to another architecture ({reason}): "
                f"resume with the settings it was made with"
            ) from None
        self.step, self.clock = state["step"], Clock(state["seconds"])
        self.log_sizes, self.warnings = state["log_sizes"], state["warnings"]

    def _check_state(self, state: dict[str, Any]) -> None:
        kinds = {name: isinstance(state.get(name), kind) for name, kind in KINDS.items()}
        sizes = state.get("log_sizes") or []
        wrong = [name for name, right in kinds.items() if not right]
        if not wrong and not (len(sizes) == 2 and all(type(n) is int and n >= 0 for n in sizes)):
            wrong = ["log_sizes"]
        if wrong:
            raise UserError(
                f"the checkpoint in {self.folder} is not whole ({', '.join(wrong)} missing or "
                f"wrong): train again under another --name"
            )
        if state["step"] > self.total_steps:
            raise UserError(
                f"the checkpoint in {self.folder} was made after step {state['step']}, and these "
                f"settings end at step {self.total_steps}: resume with the settings and the images "
                f"it was made with"
            )

    def _check_images(self, before: dict[str, Any] | None) -> None:
        """Other images would be drawn in another order, or be others at the same places."""
        now = self.dataset.fingerprint()
        if before is None or before == now:  # None: the state of an older version
            return
        if any(before.get(key) != now[key] for key in ("images", "contents")):
            raise UserError(
                f"the images of {self.dataset.name} have changed since {self.folder} was started "
                f"({before.get('images')} then, {now['images']} now; their names, sizes and labels "
                f"are compared): bring the old ones back, or start a new run"
            )
        if not self.processes.is_main:
            return
        self.warn(
            f"the image files of {self.dataset.name} have other times than when {self.folder} was "
            f"started, but the same names and sizes: if they were replaced, start a new run"
        )

    def _load_method(self, state: dict[str, Any]) -> None:
        ours = self.method.state_dict()
        self.method.load_state_dict({n: sharded_like(t, ours.get(n)) for n, t in state.items()})

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        parts = {
            number: {name: sharded_like(t, self.parameters[number]) for name, t in moments.items()}
            for number, moments in state["state"].items()
        }
        self.optimizer.load_state_dict(state | {"state": parts})

    def _schedules(self, per_epoch: int) -> dict[str, list[float]]:
        o, total = self.optim, self.total_steps
        lr = peak_learning_rate(o.lr, self.train.batch_size, o.lr_scaling)
        warmup = min(round(o.warmup_epochs * per_epoch), total)
        tables = {
            "lr": cosine_schedule(lr, min(o.lr_final, lr), total, warmup),
            "weight_decay": cosine_schedule(o.weight_decay, o.weight_decay_final, total),
        } | self.method.schedules(total, per_epoch)
        return {name: table.tolist() for name, table in tables.items()}

    def _engine(self) -> Method | DistributedDataParallel:
        """What a step calls: the method, alone, in parts on every process, or copied to each."""
        sharded = self.train.sharding == "fsdp"
        if self.train.compile:
            self.augment.compile()
            for network in self.method.networks:
                network.compile()
        if self.processes.world == 1:
            if sharded:
                raise UserError(
                    "train.sharding=fsdp cuts a model up over several processes, and this is one: "
                    "start it by torchrun --nproc-per-node 2 -m dino_tutorial train …, or leave "
                    "train.sharding at none"
                )
            return self.method
        if self.device.type == "cuda":  # there is no synchronised batch norm on the CPU
            self.method = nn.SyncBatchNorm.convert_sync_batchnorm(self.method)
        if sharded:
            shard(self.method, self.device.type)
            return self.method
        ids = [self.processes.local_rank] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            self.method, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def _checkpoint_activations(self) -> None:
        encoder = self.method.student.backbone
        if not isinstance(encoder, VisionTransformer):
            raise UserError(
                "train.checkpoint_activations is for vision transformers: leave it off, or choose "
                "a model.arch that begins with vit"
            )
        encoder.checkpoint_activations = True

    def _clip(self) -> Float[Tensor, ""]:
        if self.optim.clip_rule == "module":
            return clip_modules(self.modules, self.optim.clip)
        return clip_gradients(self.parameters, self.optim.clip, self.optim.clip_rule)

    def _no_sync(self) -> AbstractContextManager[object]:
        """For all but the last part of a batch: gradients are added up over processes once."""
        if isinstance(self.engine, DistributedDataParallel):
            return self.engine.no_sync()
        return without_reduction(self.engine)

    def _agree(self, interrupted: bool, logged: bool) -> bool:
        """Whether all stop after this step; several processes ask each other where they wait."""
        if self.processes.world == 1:
            return interrupted
        if not logged:  # between logged steps nobody waits for the device
            return False
        asked = torch.tensor(float(interrupted), device=self.device)
        return mean_over_processes(asked).item() > 0

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step + 1 == self.total_steps

    def _row(self, metrics: dict[str, Tensor], values: dict[str, float]) -> dict[str, Any]:
        """This step's row of metrics, looked at. Here alone the host waits for the device."""
        names = list(metrics)
        numbers = mean_over_processes(torch.stack([metrics[n].float() for n in names])).tolist()
        row: dict[str, Any] = {"step": self.step}
        row |= {"epoch": round(self.step / self.order.steps_per_epoch, 4)}
        row |= dict(zip(names, numbers, strict=True)) | values
        row |= self.method.constants
        if self.scaler.is_enabled() and not math.isfinite(row["grad_norm"]):
            row["grad_norm"] = None  # it overflowed, and the step was left out
        check_finite(row, kept=(self.folder / CURRENT).exists())
        if self._due(self.train.eval_every) and self.evaluate is not None:
            self._check_weights(self.step + 1)
            if self.processes.is_main or self.train.sharding == "fsdp":  # where all have a shard
                row |= self.evaluate()  # the others wait in _agree
        self.rows.append(row)
        self._report_health()
        return row

    def _timing(self) -> dict[str, Any]:
        steps, seconds = self.clock.lap(self.step)
        timing = {
            "step": self.step,
            "seconds": round(self.clock.seconds, 3),
            "images_per_second": round(steps * self.train.batch_size / seconds, 1),
        }
        if self.device.type == "cpu":
            timing["threads"] = torch.get_num_threads()
        if self.device.type == "cuda":
            timing["memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
        return timing

    def _postfix(self, row: dict[str, Any]) -> dict[str, str]:
        shown = {"loss": f"{row['loss']:.3f}"}
        if "ln_k" in row:
            shown["ln K"] = f"{row['ln_k']:.3f}"
        if "teacher_entropy" in row:
            shown["entropy"] = f"{row['teacher_entropy']:.2f}"
        if "accuracy" in row:
            shown["right"] = f"{100 * row['accuracy']:.0f} %"
        if "feature_spread" in row:
            shown["spread"] = f"{row['feature_spread']:.2f}"
        if "knn_top1" in row:
            shown["kNN"] = f"{100 * row['knn_top1']:.1f} %"
        return shown

    def _report_health(self) -> None:
        sentence = diagnose(self.rows)
        if sentence and sentence not in self.warnings:
            self.warnings.append(sentence)
            if self.processes.is_main:
                self.warn(f"step {self.step}: {sentence}.")


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a flag, so that a step ends first."""
    caught: list[float] = []
    names = [getattr(signal, name) for name in STOPS if hasattr(signal, name)]

    def note(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if caught and now - caught[0] > ONE_SIGNAL:  # asked twice: stop at once
            raise KeyboardInterrupt
        caught.append(now)

    try:
        ignored = [name for name in names if signal.getsignal(name) is signal.SIG_IGN]  # nohup
        before = {name: signal.signal(name, note) for name in names if name not in ignored}
    except ValueError:  # not in the main thread (a notebook server's worker): nothing to catch
        yield lambda: False
        return
    try:
        yield lambda: bool(caught)
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
