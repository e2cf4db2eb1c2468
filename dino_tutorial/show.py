"""`dino-tutorial show`: one picture of what an encoder sees, as a file."""

from pathlib import Path

from dino_tutorial.datasets import open_dataset
from dino_tutorial.datasets.part import random_part
from dino_tutorial.errors import UserError
from dino_tutorial.methods import METHODS
from dino_tutorial.models import VisionTransformer
from dino_tutorial.pictures import cls_attention, crops_of, nearest_pictures, patch_components
from dino_tutorial.plots import attention_heads, crop_figure, neighbour_rows, patch_pca_pictures
from dino_tutorial.plots.style import DescribedFigure, save_figure
from dino_tutorial.runs import Run
from dino_tutorial.training.batches import mix
from dino_tutorial.views import Augment

BANK, NEIGHBOURS = 2000, 5


def show(
    run: Run, what: str, path: Path, data: str | None = None, n: int = 4, size: int | None = None
) -> DescribedFigure:
    """Draw ``what`` for ``n`` pictures and write it to ``path``.

    Args:
        run: a finished run.
        what: attention, pca, crops or neighbours.
        path: ends in .png, .svg, .pdf or .html; the page carries the alt text.
        data: a data set's name or folder; the run's own by default. Its test split is shown, or
            all of it if it has none.
        n: number of pictures.
        size: side of the canvas in pixels; the run's global view by default. Crops are cut from
            the run's own canvas.

    Raises:
        UserError: no picture is asked for, the encoder has no patches to show, or the file cannot
            be written.
    """
    if n < 1:
        raise UserError(f"there is nothing to show with --n {n}: ask for at least one picture")
    figure = _FIGURES[what](run, data or run.config.source, n, size)
    save_figure(figure, path, title=f"{what} of {run.folder.name}")
    return figure


def _attention(run: Run, data: str, n: int, size: int | None) -> DescribedFigure:
    encoder, pictures = _transformer(run), _pictures(run, data, n, size).images()
    return attention_heads(pictures, cls_attention(encoder, pictures))


def _pca(run: Run, data: str, n: int, size: int | None) -> DescribedFigure:
    encoder, pictures = _transformer(run), _pictures(run, data, n, size).images()
    return patch_pca_pictures(pictures, patch_components(encoder, pictures))


def _crops(run: Run, data: str, n: int, size: int | None) -> DescribedFigure:
    pictures = _pictures(run, data, n, size or run.config.data.image_size).images()
    augment = Augment(METHODS[run.config.method].view_specs(run.config.views))
    return crop_figure(pictures, *crops_of(augment, pictures, mix(run.config.seed, 7)))


def _neighbours(run: Run, data: str, n: int, size: int | None) -> DescribedFigure:
    queries = _pictures(run, data, n, size)
    bank = open_dataset(data, "train", image_size=queries.image_size, root=run.config.data.root)
    bank = random_part(bank, BANK, mix(run.config.seed, 8))
    pictures, labels = nearest_pictures(run.encoder(), bank, queries, NEIGHBOURS)
    return neighbour_rows(queries.images(), pictures, queries.labels, labels, bank.classes)


_FIGURES = {"attention": _attention, "pca": _pca, "crops": _crops, "neighbours": _neighbours}


def _transformer(run: Run) -> VisionTransformer:
    encoder = run.encoder()
    if not isinstance(encoder, VisionTransformer):
        raise UserError(
            f"{run.folder} holds a {run.config.model.arch}, which has no patch tokens: show its"
            " crops or neighbours instead"
        )
    return encoder


def _pictures(run: Run, data: str, n: int, size: int | None):
    size = size or run.config.views.global_size
    for split in ("test", "train"):
        pictures = open_dataset(data, split, image_size=size, root=run.config.data.root)
        if len(pictures):
            break
    return random_part(pictures, n, mix(run.config.seed, 6))
