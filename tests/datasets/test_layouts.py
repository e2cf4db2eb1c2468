"""How folders are laid out: splits and classes by any usual name, links, and what is left out."""

import os

import pytest
from PIL import Image

from dino_tutorial.datasets import open_dataset
from dino_tutorial.datasets.files import ImageFiles
from dino_tutorial.datasets.folder import find_images, open_folder
from dino_tutorial.errors import UserError


def fill(folder, *places, n=3):
    """n images of 8 px in each place; the red value tells them apart."""
    for place in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
        for number in range(n):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / place / f"{number}.png")
    return folder


def sizes(folder):
    train, test = open_folder(folder), open_folder(folder, "test")
    return train.classes, len(train), len(test)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("Training", "Testing"),
        ("train", "Val"),
        ("training", "validation"),
        ("training_set", "test_set"),
        ("train-images", "valid"),
        ("data/train", "data/test"),
        ("images/Training", "images/Validation"),
    ],
)
def test_splits_by_any_usual_name(tmp_path, capsys, train, test):
    for split in (train, test):
        fill(tmp_path, f"{split}/cat", f"{split}/dog", n=4 if split == train else 2)
    assert sizes(tmp_path) == (("cat", "dog"), 8, 4)
    assert capsys.readouterr().err == ""


def test_splits_within_each_class(tmp_path):
    fill(tmp_path, "cat/train", "dog/train", n=4)
    fill(tmp_path, "cat/test", "dog/test", n=2)
    assert sizes(tmp_path) == (("cat", "dog"), 8, 4)


def test_a_train_beside_buses_and_cars_is_a_class(tmp_path, capsys):
    fill(tmp_path, "bus", "car", "train", n=12)
    classes, train, test = sizes(tmp_path)
    assert classes == ("bus", "car", "train") and train + test == 36
    assert "train is taken for a class" in capsys.readouterr().err


def test_what_lies_beside_the_splits_is_left_out_and_named(tmp_path, capsys):
    fill(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog", "val/cat", "extra")
    assert sizes(tmp_path) == (("cat", "dog"), 6, 6)
    error = capsys.readouterr().err
    assert "6 images beside train and test are left out" in error and "extra/0.png" in error


def test_a_train_folder_alone_holds_a_tenth_out(tmp_path):
    fill(tmp_path, "Train/cat", "Train/dog", n=30)
    classes, train, test = sizes(tmp_path)
    assert classes == ("cat", "dog") and train + test == 60 and 1 <= test <= 15


def test_test_splits_without_a_training_split_are_refused(tmp_path):
    fill(tmp_path, "test/cat", "val/cat")
    with pytest.raises(UserError, match="test and val, but no folder for training"):
        open_folder(tmp_path)


def test_names_that_only_begin_like_a_split_are_classes(tmp_path):
    fill(tmp_path, "train_station", "test_tube", "validator")
    assert sizes(tmp_path)[0] == ("test_tube", "train_station", "validator")


def test_a_pool_knows_its_classes_below_its_splits(tmp_path):
    fill(tmp_path, "Train/cat", "Train/dog", "Test/cat", "Test/dog")
    pool = ImageFiles(tmp_path)
    assert pool.classes == ("cat", "dog") and len(pool) == 12
    fill(tmp_path / "other", "test/cat", "val/dog")
    assert len(ImageFiles(tmp_path / "other")) == 6


def test_shards_by_any_usual_name(tmp_path, capsys):
    from dino_tutorial.datasets import write_shards

    images = open_folder(fill(tmp_path / "images", "cat", "dog", n=6))
    for place in ("Training", "validation", "extra"):
        write_shards(images, tmp_path / "tars" / place)
    assert len(open_dataset(tmp_path / "tars")) == len(images)
    assert len(open_dataset(tmp_path / "tars", "test")) == len(images)
    assert "1 shards beside train and test are left out" in capsys.readouterr().err


# Links


def test_a_ring_of_links_lists_each_image_once(tmp_path, capsys):
    fill(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog")
    os.symlink(tmp_path / "test", tmp_path / "train" / "cat" / "there", target_is_directory=True)
    os.symlink(tmp_path / "train", tmp_path / "test" / "cat" / "back", target_is_directory=True)
    assert sizes(tmp_path) == (("cat", "dog"), 6, 6)
    assert len(find_images(tmp_path)) == 12
    assert "links to images that are there are left out" in capsys.readouterr().err


def test_many_folders_that_link_to_each_other_end(tmp_path):
    names = [f"class{number:02d}" for number in range(12)]
    fill(tmp_path, *names, n=1)
    for one in names:
        for other in names:
            os.symlink(tmp_path / other, tmp_path / one / f"to_{other}", target_is_directory=True)
    assert find_images(tmp_path) == [f"{name}/0.png" for name in names]


def test_a_split_made_of_links_to_a_pool_is_whole(tmp_path):
    fill(tmp_path, "pool/cat", "pool/dog", n=4)
    fill(tmp_path, "pool/held/cat", "pool/held/dog", n=2)
    for split, place in (("train", "pool"), ("test", "pool/held")):
        for kind in ("cat", "dog"):
            (tmp_path / split).mkdir(exist_ok=True)
            os.symlink(tmp_path / place / kind, tmp_path / split / kind, target_is_directory=True)
    assert sizes(tmp_path) == (("cat", "dog"), 8, 4)


def test_a_linked_file_does_not_lie_in_both_splits(tmp_path):
    fill(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog")
    os.symlink(tmp_path / "train" / "cat" / "1.png", tmp_path / "test" / "cat" / "again.png")
    os.symlink(tmp_path / "train" / "cat" / "1.png", tmp_path / "train" / "cat" / "copy.png")
    assert sizes(tmp_path) == (("cat", "dog"), 6, 6)


def test_links_that_lead_nowhere_or_to_themselves_do_no_harm(tmp_path, capsys):
    fill(tmp_path, "cat", "dog", n=30)
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    os.symlink(tmp_path / "gone", tmp_path / "cat" / "gone.png")
    assert len(open_folder(tmp_path)) + len(open_folder(tmp_path, "test")) == 60
    assert "gone.png" in capsys.readouterr().err
