"""Jigsaw puzzles (Noroozi and Favaro 2016)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dino_tutorial.errors import UserError
from dino_tutorial.methods.base import (
    Method,
    Network,
    accuracy,
    an_encoder,
    refuse_local_crops,
    spread_within,
)
from dino_tutorial.models import Encoder
from dino_tutorial.options import Settings, option, takes
from dino_tutorial.views import ViewSpec, permutation_set, shuffled_tiles, single_view
from dino_tutorial.views.settings import ViewSettings


@dataclass(frozen=True)
class JigsawSettings(Settings):
    """Settings of the objective; the defaults are the paper's."""

    grid: int = option(3, "Tiles along a side of the puzzle.", among=(2, 3))
    tile_size: int = option(64, "Side of a tile, in pixels.", low=4)
    permutations: int = option(1000, "Orders of the tiles that are told apart.", low=2, high=10000)
    tile_dim: int = option(512, "Width of a tile's vector before the solver.", low=1)
    hidden_dim: int = option(4096, "Width of the solver's hidden layers.", low=1)


class Jigsaw(Method):
    """Which of a fixed set of permutations has shuffled the tiles of the image?

    The encoder sees each tile alone, and only a small network after it sees them together (the
    paper's context-free network), so that the encoder has to say what is *in* a tile. A vision
    transformer takes a tile as it takes any small image, with interpolated positions.

    A tile is a window of its cell with 64 / 75 of the cell's side, as in the paper, resized to
    ``tile_size``. With images of 224 pixels that is the paper's 3 × 3 puzzle of 64 pixels; with
    32 pixels a window has 14 pixels (2 × 2) or 9 (3 × 3), brought to a multiple of the patch size.
    Which permutation and which windows is drawn on the device, each process for its own images.

    Args:
        backbone: the encoder.
        settings: see :class:`JigsawSettings`.

    Raises:
        UserError: if the tile is not a multiple of the patch, or the set of permutations is
            larger than the number that there are.
    """

    Settings = JigsawSettings
    title = "Jigsaw puzzles"

    permutations: Tensor

    @takes(backbone=an_encoder)
    def __init__(
        self,
        backbone: Encoder,
        settings: JigsawSettings = JigsawSettings(),
    ):
        super().__init__()
        patch = getattr(backbone, "patch_size", 1)
        if settings.tile_size % patch:
            raise UserError(
                f"objective.tile_size = {settings.tile_size} is not a multiple of the patch size "
                f"{patch}: use {max(settings.tile_size // patch, 1) * patch}"
            )
        self.settings = settings
        n_tiles, hidden = settings.grid**2, settings.hidden_dim
        head = nn.Sequential(
            nn.Linear(backbone.embed_dim, settings.tile_dim), nn.ReLU(inplace=True)
        )
        self.student = Network(backbone, head)
        self.solver = nn.Sequential(
            nn.Linear(n_tiles * settings.tile_dim, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, settings.permutations),
        )
        self.register_buffer("permutations", permutation_set(n_tiles, settings.permutations))

    @staticmethod
    def view_specs(views: ViewSettings) -> Sequence[ViewSpec]:
        refuse_local_crops("jigsaw", views)
        square = {"ratio": (1.0, 1.0)}  # the paper crops without stretching
        return single_view(views.global_size, views.global_scale, **square, **views.operations())

    def forward(
        self, views: list[Float[Tensor, "_ B 3 _ _"]], values: Mapping[str, float], measure: bool
    ) -> dict[str, Float[Tensor, ""]]:
        ((images,),) = views  # one group of one view: (B, 3, S, S)
        batch, device = len(images), images.device
        targets = torch.randint(len(self.permutations), (batch,), device=device)
        order = self.permutations[targets]  # (B, T)
        place = torch.rand(*order.shape, 2, device=device)
        tiles = shuffled_tiles(images, order, place, self.settings.tile_size)  # (T, B, 3, s, s)
        features, outputs = self.student([tiles])  # (T, B, D), (T, B, tile_dim)
        logits = self.solver(outputs.transpose(0, 1).flatten(1))
        loss = cross_entropy(logits, targets)
        if not measure:
            return {"loss": loss}
        return {
            "loss": loss,
            "accuracy": accuracy(logits, targets),
            "feature_spread": spread_within(features),  # of one place: images, not targets
        }

    @property
    def constants(self) -> dict[str, float]:
        return {"ln_k": math.log(len(self.permutations))}
