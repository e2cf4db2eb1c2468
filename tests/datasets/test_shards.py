"""Tar shards: written, read back, read by the webdataset package, damaged."""

import io
import json
import pickle
import tarfile

import pytest
import torch
from PIL import Image

from dino_tutorial.datasets import ArrayDataset, decode
from dino_tutorial.datasets.shards import expand_braces, is_shards, open_shards, write_shards
from dino_tutorial.errors import UserError


@pytest.fixture
def dataset():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return ArrayDataset(images, torch.arange(60) % 3, ("ant", "bee", "cow"), "insects")


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))


def png(red):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def both_splits(pattern):
    return [open_shards(pattern, split) for split in ("train", "test")]


def reds(*datasets):
    return {
        int(image[0, 0, 0]): int(label)
        for dataset in datasets
        for image, label in zip(dataset.images(), dataset.labels, strict=True)
    }


def test_round_trip(dataset, tmp_path):
    paths = write_shards(dataset, tmp_path / "train", per_shard=25)
    write_shards(dataset, tmp_path / "test", per_shard=60)
    assert [path.name for path in paths] == [f"shard-00000{number}.tar" for number in range(3)]
    assert is_shards(str(tmp_path))
    read = open_shards(tmp_path)
    assert torch.equal(read.images(), dataset.images())
    assert torch.equal(read.labels, dataset.labels)
    assert read.classes == dataset.classes and read.image_size == 16


def test_hold_out_without_split_names(dataset, tmp_path):
    write_shards(dataset, tmp_path, per_shard=25)
    train, test = both_splits(tmp_path)
    together = torch.cat([train.images(), test.images()]).flatten(1)
    assert 1 <= len(test) <= 15 and len(together) == 60
    assert len(together.unique(dim=0)) == 60


def test_webdataset_reads_what_is_written(dataset, tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="needs the webdataset package")
    paths = write_shards(dataset, tmp_path, per_shard=30)
    stream = webdataset.WebDataset([str(path) for path in paths], shardshuffle=False)
    samples = list(stream.decode("torchrgb8").to_tuple("png", "cls", "json"))
    assert len(samples) == 60
    for index, (image, label, values) in enumerate(samples):
        assert torch.equal(torch.as_tensor(image), dataset.images()[index])
        assert label == values["label"] == dataset.labels[index]
        assert values["class"] == dataset.classes[label]


def test_reads_what_webdataset_writes(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="needs the webdataset package")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as sink:
        for red in range(40):
            sink.write({"__key__": f"x/{red:04d}", "png": png(red), "cls": red % 4})
    assert reds(*both_splits(tmp_path / "a.tar")) == {red: red % 4 for red in range(40)}


def test_labels_from_cls_and_json(tmp_path):
    members = []
    for red in range(40):
        members += [(f"{red}.png", png(red)), (f"{red}.seg.png", png(200))]
        members.append((f"{red}.json", json.dumps({"class": "ab"[red % 2]}).encode()))
    members += [("40.png", png(40)), ("40.json", b"{broken"), ("lonely.cls", b"1")]
    write_tar(tmp_path / "named.tar", members)
    train, test = both_splits(tmp_path / "named.tar")
    assert train.classes == test.classes == ("a", "b")
    assert reds(train, test) == {red: red % 2 for red in range(40)} | {40: -1}


def test_integer_labels_without_names(tmp_path):
    members = [
        member
        for red in range(20)
        for member in [(f"{red}.png", png(red)), (f"{red}.cls", str(red % 3).encode())]
    ]
    write_tar(tmp_path / "x.tar", members)
    assert open_shards(tmp_path / "x.tar").classes == ("0", "1", "2")


def test_label_that_is_an_identifier(tmp_path):
    write_tar(tmp_path / "x.tar", [("0.png", png(0)), ("0.cls", b"123456789012")])
    with pytest.raises(UserError, match="no class index"):
        open_shards(tmp_path / "x.tar")


def test_split_words_in_shard_names(tmp_path):
    for number, name in enumerate(["a-train-0.tar", "a-train-1.tar", "a-val-0.tar", "a-extra.tar"]):
        write_tar(tmp_path / name, [("0.png", png(number))])
    train, test = both_splits(tmp_path)
    assert set(reds(train)) == {0, 1} and set(reds(test)) == {2}


def test_patterns(dataset, tmp_path, capsys):
    write_shards(dataset, tmp_path, per_shard=15)
    braces = str(tmp_path / "shard-{000001..000002}.tar")
    assert is_shards(braces)
    assert sum(len(part) for part in both_splits(braces)) == 30
    assert sum(len(part) for part in both_splits(tmp_path / "shard-*.tar")) == 60
    capsys.readouterr()
    assert len(open_shards(tmp_path / "shard-{000003..000005}.tar")) > 0
    assert "2 of 3 shards are missing" in capsys.readouterr().err
    with pytest.raises(UserError, match="there is no shard"):
        open_shards(tmp_path / "nothing-{0..3}.tar")
    assert expand_braces("{08..10}{a,b}") == ["08a", "08b", "09a", "09b", "10a", "10b"]
    assert expand_braces("{8..10}") == ["8", "9", "10"]


def test_truncated_shard_is_listed_and_the_rest_used(dataset, tmp_path, capsys):
    (path,) = write_shards(dataset, tmp_path, per_shard=60)
    with tarfile.open(path) as tar:
        cut = tar.getmember("00000030.png").offset_data + 100
    path.write_bytes(path.read_bytes()[:cut])
    parts = both_splits(path)
    assert sum(len(part) for part in parts) == 30
    assert "1 of 1 shards are damaged" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut between members", "broken header"])
def test_quiet_damage_is_noticed(dataset, tmp_path, capsys, damage):
    (path,) = write_shards(dataset, tmp_path, per_shard=60)
    with tarfile.open(path) as tar:
        header = tar.getmember("00000030.png").offset
    content = path.read_bytes()
    broken = b"" if damage == "cut between members" else b"\xff" * 512 + content[header + 512 :]
    path.write_bytes(content[:header] + broken)
    assert sum(len(part) for part in both_splits(path)) == 30
    assert "shards are damaged" in capsys.readouterr().err


def test_not_a_tar(dataset, tmp_path, capsys):
    write_shards(dataset, tmp_path, per_shard=60)
    (tmp_path / "zipped.tar").write_bytes(b"\x1f\x8b" + bytes(1000))
    assert sum(len(part) for part in both_splits(tmp_path)) == 60
    assert "zipped.tar (not an uncompressed tar file" in capsys.readouterr().err
    with pytest.raises(UserError, match="no jpg"):
        open_shards(tmp_path / "zipped.tar")


def test_unreadable_member_is_left_out(tmp_path, capsys):
    readable = [(f"{red}.png", png(red)) for red in range(1, 20)]
    write_tar(tmp_path / "x.tar", [("0.png", b"broken"), *readable])
    assert set(reds(*both_splits(tmp_path / "x.tar"))) == set(range(1, 20))
    assert "x.tar:0 (not an image)" in capsys.readouterr().err


def test_random_access_on_demand(dataset, tmp_path, monkeypatch):
    write_shards(dataset, tmp_path / "train", per_shard=7)
    write_shards(dataset, tmp_path / "test", per_shard=60)
    monkeypatch.setattr(decode, "MEMORY_LIMIT", 0)
    lazy = pickle.loads(pickle.dumps(open_shards(tmp_path)))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    assert not lazy.in_memory and torch.equal(lazy.images(order), dataset.images(order))


def test_write_refuses_to_mix(dataset, tmp_path):
    write_shards(dataset, tmp_path)
    with pytest.raises(UserError, match="has shards already"):
        write_shards(dataset, tmp_path)
    with pytest.raises(UserError, match="per_shard must be 1"):
        write_shards(dataset, tmp_path / "other", per_shard=0)


def test_same_data_gives_the_same_bytes(dataset, tmp_path):
    (first,), (second,) = (write_shards(dataset, tmp_path / name) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
