"""`dino-tutorial show`: one figure of what an encoder sees, as a file."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from dino_tutorial.datasets import ImageDataset, open_dataset
from dino_tutorial.datasets.subset import Subset, random_subset
from dino_tutorial.errors import UserError
from dino_tutorial.methods import METHODS
from dino_tutorial.models import VisionTransformer, pretrained
from dino_tutorial.options import check_whole
from dino_tutorial.plots import attention_heads, crop_figure, neighbour_rows, patch_pca_images
from dino_tutorial.plots.style import DescribedFigure, check_figure_path, save_figure
from dino_tutorial.runs.folder import Run
from dino_tutorial.runs.gallery import (
    attention_maps,
    crops_of,
    filled,
    nearest_images,
    patch_components,
)
from dino_tutorial.seeds import Stream, mix
from dino_tutorial.views import Augment

BANK, NEIGHBOURS = 2000, 5
MOST = 64  # pictures in a figure
RELEASED_SIZE = 448  # px: whole patches of 8, of 14 and of 16


@dataclass(frozen=True)
class View:
    """What is looked through, and at which images.

    Attributes:
        name: of the run or of the released model.
        encoder: loads it; crops need none.
        data, root: the data set, and where downloaded ones are kept.
        n: number of images.
        size: side of the canvas in pixels; None is the data set's own.
        fit: what of a photograph lies on it.
        seed: of the choice of images.
        run: None for a released model.
    """

    name: str
    encoder: Callable[[], nn.Module]
    data: str
    root: str | None
    n: int
    size: int | None
    fit: str
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

    @cached_property
    def train(self) -> ImageDataset:
        return self._open("train")

    def chosen(self) -> Subset:
        """Some of the test split, or of the training split where that has too few."""
        try:
            chosen = self._open("test")
        except UserError:  # a small folder holds none out; if nothing is there, train says so
            chosen = self.train
        if len(chosen) < self.n:
            chosen = self.train
        return random_subset(chosen, self.n, mix(self.seed, Stream.SHOWN))

    def bank(self) -> Subset:
        return random_subset(self.train, BANK, mix(self.seed, Stream.BANK))

    def _open(self, split: str) -> ImageDataset:
        return open_dataset(self.data, split, image_size=self.size, fit=self.fit, root=self.root)


def show(
    run: Run | str,
    what: str,
    path: Path,
    data: str | None = None,
    n: int = 4,
    size: int | None = None,
) -> DescribedFigure:
    """Draw ``what`` for ``n`` images and write it to ``path``.

    Args:
        run: a finished run, or the name of a released model, see
            :func:`dino_tutorial.models.pretrained`.
        what: attention, pca, crops or neighbours; crops of runs only.
        path: ends in .png, .svg, .pdf or .html; the page carries the alt text.
        data: a data set's name or folder; a run's own by default. Its test split is shown, or
            the other images if it has too few.
        n: number of images.
        size: side of the canvas in pixels; by default the run's global view, or 448 for a
            released model. Crops are cut from the run's own canvas.

    Raises:
        UserError: no image is asked for, a released model has no data to show, the encoder has
            no patches, or the file cannot be written.
    """
    if what not in _FIGURES:
        raise UserError(f"there is no figure {what!r:.40}: choose one of {', '.join(_FIGURES)}")
    check_whole("--n", n, 1, MOST, "images")
    check_figure_path(path)
    view = _of_run(run, what, data, n, size) if isinstance(run, Run) else _of(run, data, n, size)
    figure = _FIGURES[what](view)
    save_figure(figure, path, title=f"{what} of {view.name}")
    return figure


def _of_run(run: Run, what: str, data: str | None, n: int, size: int | None) -> View:
    config = run.config
    own = config.data.image_size if what == "crops" else config.views.global_size
    data = config.source if data is None else data
    return View(
        run.folder.name,
        run.encoder,
        data,
        config.data.root,
        n,
        size=own if size is None else size,
        fit=config.data.fit if what == "crops" else "center",
        seed=config.seed,
        run=run,
    )


def _of(released: str, data: str | None, n: int, size: int | None) -> View:
    if data is None:
        raise UserError(f"{released} comes without images: name some with --data")
    return View(
        released,
        lambda: pretrained(released),
        data,
        None,
        n,
        RELEASED_SIZE if size is None else size,
        fit="center",
        seed=0,
        run=None,
    )


def _attention(view: View) -> DescribedFigure:
    encoder, images = view.transformer(), view.chosen().images()
    return attention_heads(images, attention_maps(encoder, images))


def _pca(view: View) -> DescribedFigure:
    encoder, images = view.transformer(), view.chosen().images()
    return patch_pca_images(images, patch_components(encoder, images))


def _crops(view: View) -> DescribedFigure:
    if view.run is None:
        raise UserError(f"how {view.name} was shown its images is not stored: show a run's crops")
    config = view.run.config
    images, sizes = view.chosen().placed()
    augment = Augment(METHODS[config.method].view_specs(config.views))
    crops, boxes = crops_of(augment, images, sizes, mix(view.seed, Stream.CROPS))
    return crop_figure(filled(images, sizes), crops, boxes)


def _neighbours(view: View) -> DescribedFigure:
    queries, bank = view.chosen(), view.bank()
    images, labels = nearest_images(view.encoder(), bank, queries, NEIGHBOURS)
    return neighbour_rows(queries.images(), images, queries.labels, labels, bank.classes)


_FIGURES = {"attention": _attention, "pca": _pca, "crops": _crops, "neighbours": _neighbours}
