"""`dino-tutorial show`: one picture of what an encoder sees, as a file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from dino_tutorial.datasets import ImageDataset, open_dataset
from dino_tutorial.datasets.subset import random_subset
from dino_tutorial.errors import UserError
from dino_tutorial.methods import METHODS
from dino_tutorial.models import VisionTransformer, pretrained
from dino_tutorial.plots import attention_heads, crop_figure, neighbour_rows, patch_pca_pictures
from dino_tutorial.plots.style import DescribedFigure, save_figure
from dino_tutorial.runs.folder import Run
from dino_tutorial.runs.pictures import attention_maps, crops_of, nearest_pictures, patch_components

from dino_tutorial.seeds import Stream, mix
from dino_tutorial.views import Augment

BANK, NEIGHBOURS = 2000, 5
RELEASED_SIZE = 448  # px: whole patches of 8, of 14 and of 16


@dataclass(frozen=True)
class View:
    """What is looked through, and at which pictures.

    Attributes:
        name: of the run or of the released model.
        encoder: loads it; crops need none.
        data, root: the data set, and where downloaded ones are kept.
        n: number of pictures.
        size: side of the canvas in pixels; None is the data set's own.
        seed: of the choice of pictures.
        run: None for a released model.
    """

    name: str
    encoder: Callable[[], nn.Module]
    data: str
    root: str | None
    n: int
    size: int | None
    seed: int
    run: Run | None

    def transformer(self) -> VisionTransformer:
        encoder = self.encoder()
        if not isinstance(encoder, VisionTransformer):
            raise UserError(
                f"{self.name} holds a {type(encoder).__name__}, which has no patch tokens: show"
                " its crops or neighbours instead"
            )
        return encoder

    def pictures(self) -> ImageDataset:
        """Some of the test split, or of the training split where that has too few."""
        try:
            pictures = self._open("test")
        except UserError:  # a small folder holds none out; if nothing is there, train says so
            pictures = self._open("train")
        if len(pictures) < self.n:
            pictures = self._open("train")
        return random_subset(pictures, self.n, mix(self.seed, Stream.PICTURES))

    def bank(self) -> ImageDataset:
        return random_subset(self._open("train"), BANK, mix(self.seed, Stream.BANK))

    def _open(self, split: str) -> ImageDataset:
        return open_dataset(self.data, split, image_size=self.size, root=self.root)


def show(
    run: Run | str,
    what: str,
    path: Path,
    data: str | None = None,
    n: int = 4,
    size: int | None = None,
) -> DescribedFigure:
    """Draw ``what`` for ``n`` pictures and write it to ``path``.

    Args:
        run: a finished run, or the name of a released model, see
            :func:`dino_tutorial.models.pretrained`.
        what: attention, pca, crops or neighbours; crops of runs only.
        path: ends in .png, .svg, .pdf or .html; the page carries the alt text.
        data: a data set's name or folder; a run's own by default. Its test split is shown, or
            the other images if it has too few.
        n: number of pictures.
        size: side of the canvas in pixels; by default the run's global view, or 448 for a
            released model. Crops are cut from the run's own canvas.

    Raises:
        UserError: no picture is asked for, a released model has no data to show, the encoder has
            no patches, or the file cannot be written.
    """
    if n < 1:
        raise UserError(f"there is nothing to show with --n {n}: ask for at least one picture")
    view = _of_run(run, what, data, n, size) if isinstance(run, Run) else _of(run, data, n, size)
    figure = _FIGURES[what](view)
    save_figure(figure, path, title=f"{what} of {view.name}")
    return figure


def _of_run(run: Run, what: str, data: str | None, n: int, size: int | None) -> View:
    config = run.config
    own = config.data.image_size if what == "crops" else config.views.global_size
    return View(run.folder.name, run.encoder, data or config.source, config.data.root, n,
                size=own if size is None else size, seed=config.seed, run=run)


def _of(released: str, data: str | None, n: int, size: int | None) -> View:
    if data is None:
        raise UserError(f"{released} comes without pictures: name some with --data")
    return View(released, lambda: pretrained(released), data, None, n, RELEASED_SIZE if size is None else size,
                seed=0, run=None)


def _attention(view: View) -> DescribedFigure:
    encoder, pictures = view.transformer(), view.pictures().images()
    return attention_heads(pictures, attention_maps(encoder, pictures))


def _pca(view: View) -> DescribedFigure:
    encoder, pictures = view.transformer(), view.pictures().images()
    return patch_pca_pictures(pictures, patch_components(encoder, pictures))


def _crops(view: View) -> DescribedFigure:
    if view.run is None:
        raise UserError(f"how {view.name} was shown its pictures is not stored: show a run's crops")
    config, pictures = view.run.config, view.pictures().images()
    augment = Augment(METHODS[config.method].view_specs(config.views))
    return crop_figure(pictures, *crops_of(augment, pictures, mix(view.seed, Stream.CROPS)))


def _neighbours(view: View) -> DescribedFigure:
    queries, bank = view.pictures(), view.bank()
    pictures, labels = nearest_pictures(view.encoder(), bank, queries, NEIGHBOURS)
    return neighbour_rows(queries.images(), pictures, queries.labels, labels, bank.classes)


_FIGURES = {"attention": _attention, "pca": _pca, "crops": _crops, "neighbours": _neighbours}
