"""Jigsaw puzzles (Noroozi and Favaro 2016)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dino_tutorial.errors import UserError
from dino_tutorial.methods.base import (
    Method,
    Network,
    refuse_local_crops,
    share_right,
    spread_of,
)
from dino_tutorial.options import option
from dino_tutorial.views import ViewSpec, permutation_set, shuffled_tiles, single_view


@dataclass(frozen=True)
class JigsawOptions:
    """Settings of the objective; the defaults are the paper's."""

    grid: int = option(3, among=(2, 3))
    tile_size: int = option(64, low=4)
    permutations: int = option(1000, low=2)
    tile_dim: int = option(512, low=1)
    hidden_dim: int = option(4096, low=1)


class Jigsaw(Method):
    """Which of a fixed set of permutations has shuffled the tiles of the picture?

    The encoder sees each tile alone, and only a small network after it sees them together (the
    paper's context-free network), so that the encoder has to say what is *in* a tile. A vision
    transformer takes a tile as it takes any small image, with interpolated positions.

    A tile is a window of its cell with 64 / 75 of the cell's side, as in the paper, resized to
    ``tile_size``. With pictures of 224 pixels that is the paper's 3 × 3 puzzle of 64 pixels; with
    32 pixels a window has 14 pixels (2 × 2) or 9 (3 × 3), brought to a multiple of the patch size.
    Which permutation and which windows is drawn on the device, each process for its own images.

    Args:
        backbone: the encoder.
        options: see :class:`JigsawOptions`.

    Raises:
        UserError: if the tile is not a multiple of the patch, or the set of permutations is
            larger than the number that there are.
    """

    Options = JigsawOptions
    presets = {
        "smoke": {
            "views.local_crops": 0,
            "objective.grid": 2,
            "objective.tile_size": 8,
            "objective.permutations": 4,
            "objective.tile_dim": 32,
            "objective.hidden_dim": 64,
            "optim.lr": 4e-3,
        },
        # All 24 permutations of 2 × 2: windows of 14 pixels, shown nearly at the scale at which the
        # encoder is used. A convolutional encoder, as in the paper: a transformer of four patches
        # solves the puzzle by where the object ends, and in a trial knew less of its kind
        # afterwards than untrained. No jitter.
        "laptop": {
            "model.arch": "resnet10",
            "model.patch_size": None,
            "model.embed_dim": None,
            "model.depth": None,
            "model.num_heads": None,
            "model.stem": None,
            "views.local_crops": 0,
            "views.jitter_p": 0.0,
            "objective.grid": 2,
            "objective.tile_size": 16,
            "objective.permutations": 24,
            "objective.tile_dim": 128,
            "objective.hidden_dim": 512,
            "optim.lr": 4e-3,
            "optim.warmup_epochs": 1,
            "optim.weight_decay_final": 0.04,
            "train.epochs": 3,
        },
        "gpu": {
            "views.local_crops": 0,
            "views.jitter_p": 0.0,
            "objective.grid": 2,
            "objective.tile_size": 16,
            "objective.permutations": 24,
            "objective.hidden_dim": 2048,
            "optim.lr": 5e-4,
            "optim.weight_decay_final": 0.04,
        },
        # Noroozi and Favaro 2016, section 4: crops of 225 of 256, 30 % of them gray, batch 256,
        # lr 0.01, 350,000 iterations (70 epochs of ImageNet). Weight decay is not told; this is
        # AlexNet's. The encoder is not theirs but the ResNet-50 of Kolesnikov et al. (2019). Their
        # shift of the colour channels by up to 2 pixels is left out.
        "paper": {
            "views.global_size": 225,
            "views.global_scale": [0.77, 0.775],
            "views.local_crops": 0,
            "views.jitter_p": 0.0,
            "views.gray_p": 0.3,
            "model.arch": "resnet50",
            "optim.name": "sgd",
            "optim.lr": 0.01,
            "optim.lr_final": 1e-4,
            "optim.warmup_epochs": 0,
            "optim.weight_decay": 5e-4,
            "optim.weight_decay_final": 5e-4,
            "optim.clip": 0.0,
            "train.epochs": 70,
            "train.batch_size": 256,
        },
    }

    permutations: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        options: JigsawOptions = JigsawOptions(),  # noqa: B008
    ):
        super().__init__()
        patch = getattr(backbone, "patch_size", 1)
        if options.tile_size % patch:
            raise UserError(
                f"objective.tile_size = {options.tile_size} is not a multiple of the patch size "
                f"{patch}: use {max(options.tile_size // patch, 1) * patch}"
            )
        self.options = options
        n_tiles, hidden = options.grid**2, options.hidden_dim
        head = nn.Sequential(nn.Linear(backbone.embed_dim, options.tile_dim), nn.ReLU(inplace=True))
        self.student = Network(backbone, head)
        self.solver = nn.Sequential(
            nn.Linear(n_tiles * options.tile_dim, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, options.permutations),
        )
        self.register_buffer("permutations", permutation_set(n_tiles, options.permutations))

    @staticmethod
    def view_specs(views) -> list[ViewSpec]:
        refuse_local_crops("jigsaw", views)
        square = {"ratio": (1.0, 1.0)}  # the paper crops without stretching
        return single_view(views.global_size, views.global_scale, **square, **views.jitter())

    def forward(self, views, values, measure):
        ((images,),) = views  # one group of one view: (B, 3, S, S)
        batch, device = len(images), images.device
        answers = torch.randint(len(self.permutations), (batch,), device=device)
        order = self.permutations[answers]  # (B, T)
        place = torch.rand(*order.shape, 2, device=device)
        tiles = shuffled_tiles(images, order, place, self.options.tile_size)  # (T, B, 3, s, s)
        features, outputs = self.student([tiles])  # (T, B, D), (T, B, tile_dim)
        logits = self.solver(outputs.transpose(0, 1).flatten(1))
        loss = cross_entropy(logits, answers)
        if not measure:
            return {"loss": loss}
        return {
            "loss": loss,
            "accuracy": share_right(logits, answers),
            "feature_spread": spread_of(features),
        }

    @property
    def constants(self) -> dict[str, float]:
        return {"ln_k": math.log(len(self.permutations))}
