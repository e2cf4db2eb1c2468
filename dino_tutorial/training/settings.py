"""The settings of training: ``optim.*`` and ``train.*``."""

from dataclasses import dataclass

from dino_tutorial.options import Settings, option
from dino_tutorial.training.batches import steps_per_epoch
from dino_tutorial.training.optim import CLIP_RULES, LR_SCALINGS, OPTIMIZERS
from dino_tutorial.training.precision import PRECISIONS
from dino_tutorial.training.sharding import SHARDINGS
from dino_tutorial.training.trackers import LOGGERS


@dataclass(frozen=True)
class OptimSettings(Settings):
    """The optimizer, its schedules, and what is done to gradients."""

    name: str = option("adamw", "The optimizer.", among=OPTIMIZERS)
    lr: float = option(
        5e-4, "The learning rate after warm-up, for a batch of 256 images; see lr_scaling.", low=0
    )
    lr_final: float = option(1e-6, "Where the cosine of the learning rate ends.", low=0)
    lr_scaling: str = option(
        "linear",
        "How the learning rate grows with the batch: linear (DINO) or with its root (DINOv2).",
        among=tuple(LR_SCALINGS),
    )
    warmup_epochs: float = option(
        10, "Epochs over which the learning rate grows from 0 to lr.", low=0
    )
    weight_decay: float = option(0.04, "Weight decay at the start.", low=0)
    weight_decay_final: float = option(0.4, "Weight decay at the end; a cosine leads there.", low=0)
    clip: float = option(3.0, "Gradients are scaled down to this norm; 0 leaves them.", low=0)
    clip_rule: str = option(
        "parameter",
        "Whose norm it is: each parameter's (DINO), each module's (DINOv2), or all together.",
        among=CLIP_RULES,
    )
    layer_decay: float = option(
        1.0,
        "Each block of a transformer learns at this times the rate of the next one (DINOv2: 0.9 "
        "for short runs).",
        low=0.01,
        high=1,
    )
    patch_embed_lr_mult: float = option(
        1.0, "Factor on the learning rate of the patch embedding (DINOv2: 0.2).", low=0, high=1
    )


@dataclass(frozen=True)
class TrainSettings(Settings):
    """Length and machinery."""

    init: str | None = option(
        None,
        "Where the weights begin: the folder of a finished run of the same method; or, for a "
        "backbone with fresh heads, a released model's name or a file of weights.",
    )
    freeze_backbone_steps: int = option(
        0,
        "Steps at the start in which the backbones stay as they are and heads alone learn: for "
        "fresh heads on a trained backbone.",
        low=0,
        high=10**9,
    )
    epochs: float = option(100, "The length in epochs: how often each image is seen.", low=0.001)
    steps: int | None = option(
        None, "The length in steps, in place of train.epochs.", low=1, high=10**9
    )
    images: int | None = option(
        None, "The length in images seen, in place of train.epochs.", low=1, high=10**12
    )
    epoch_steps: int | None = option(
        None,
        "Steps that count as an epoch in every length, warm-ups included, so that lengths do not "
        "depend on the number of images; null is one pass over them.",
        low=1,
        high=10**9,
    )
    batch_size: int = option(256, "Images a step, over all processes.", low=2, high=2**20)
    accumulate: int = option(
        1, "Parts that a batch is run in, to save memory; it divides the batch.", low=1
    )
    adapt: bool = option(
        False,
        "Lower a preset's batch to the number of images and to what a CPU can do, and run it in as "
        "many parts as the memory needs; the run's settings tell what was chosen.",
    )
    checkpoint_activations: bool = option(
        False, "Compute activations a second time in the backward pass, to save memory."
    )
    precision: str = option(
        "auto",
        "Of the products: fp32, bf16, fp16 with a scaled loss, or auto: on CUDA bf16, or fp16 "
        "where the hardware has no bf16; elsewhere fp32.",
        among=("auto", *PRECISIONS),
    )
    compile: bool | None = option(
        False,
        "Compile the networks (torch.compile): a slow start, fast steps. null, as the presets for "
        "GPUs have it, does so on CUDA in a run of 5,000 steps or more, where there is a compiler.",
    )
    sharding: str = option(
        "none",
        "Under torchrun: each process holds the whole model (none) or a part of it (fsdp).",
        among=SHARDINGS,
    )
    workers: int = option(
        4, "Processes that decode images ahead, where they do not fit in memory.", low=0, high=1024
    )
    log_every: int = option(
        10, "Steps from one row of metrics.jsonl to the next.", low=1, high=10**9
    )
    logger: str = option(
        "none",
        "A program that gets these rows too, as an extra: tensorboard (files in the run's folder), "
        "wandb or trackio.",
        among=tuple(LOGGERS),
    )
    eval_every: int = option(
        1000, "Steps from one k-NN on training images to the next.", low=1, high=10**9
    )
    checkpoint_every: int = option(500, "Steps from one checkpoint to the next.", low=1)

    def steps_of_epoch(self, n_images: int) -> int:
        """How many steps count as an epoch in the lengths of a run on so many images."""
        return self.epoch_steps or steps_per_epoch(n_images, self.batch_size)

    def total_steps(self, n_images: int) -> int:
        """The length of a run on so many images, in steps."""
        if self.steps is not None:
            return self.steps
        if self.images is not None:
            return max(1, round(self.images / self.batch_size))
        return max(1, round(self.epochs * self.steps_of_epoch(n_images)))
