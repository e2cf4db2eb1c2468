"""Curation step by step: storage, hashes, duplicates, retrieval, clusters, even sampling."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.fft import dctn

from dino_tutorial.curation import (
    Components,
    CurationSettings,
    Hierarchy,
    StoredArray,
    balanced_sample,
    class_balance,
    cluster_hierarchy,
    copy_descriptors,
    curate,
    deduplicate,
    describers,
    duplicate_scores,
    embed,
    even_shares,
    fit_whitening,
    nearest,
    perceptual_hash,
    purity,
    retrieve_clusters,
    retrieve_nearest,
    similar_pairs,
    store,
    whiten,
)
from dino_tutorial.curation import neighbours as neighbours_module
from dino_tutorial.datasets import ArrayDataset
from dino_tutorial.datasets.scenes.sets import uncurated_pool
from dino_tutorial.errors import UserError
from dino_tutorial.parallel import Processes


def directions(n: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def around(centres: np.ndarray, each: int, width: float, seed: int = 0) -> np.ndarray:
    """Unit vectors scattered around centres, ``each`` of one after those of the other."""
    noise = directions(len(centres) * each, centres.shape[1], seed)
    vectors = np.repeat(centres, each, axis=0) + width * noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def pool():
    """A pool of scenes and the true group of each image."""
    pool = uncurated_pool(700, size=32)
    own = torch.arange(len(pool.images))
    groups = torch.where(pool.duplicate_of < 0, own, pool.duplicate_of)
    return pool.images, pool.labels, groups.numpy()


# Storage


def test_blocks_and_rows_come_back_as_they_were_written(tmp_path):
    values = np.random.default_rng(0).standard_normal((23, 3)).astype(np.float32)
    stored = store(tmp_path / "x", values, rows=7)
    assert stored.files == 4 and stored.width == 3
    for size in (1, 5, 7, 100):
        blocks = list(stored.blocks(size))
        assert [start for start, _ in blocks] == sorted({start for start, _ in blocks})
        assert all(len(block) <= size for _, block in blocks)
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), values)
    ids = np.array([22, 0, 7, 6, 0, 13])
    np.testing.assert_array_equal(stored.take(ids), values[ids])
    assert stored.take(ids[:0]).shape == (0, 3)


def test_a_missing_or_damaged_file_is_named(tmp_path):
    stored = store(tmp_path / "x", np.zeros((9, 2), np.float32), rows=4)
    (tmp_path / "x" / "00001.npy").unlink()
    with pytest.raises(UserError, match="00001.npy is missing"):
        list(stored.blocks(4))
    (tmp_path / "x" / "00001.npy").write_bytes(b"no numbers")
    with pytest.raises(UserError, match="00001.npy cannot be read"):
        stored.take(np.array([5]))
    with pytest.raises(ValueError, match="holds 4 rows, not 3"):
        stored.write(1, np.zeros((3, 2)))


# Descriptors


def test_the_hash_is_that_of_the_cosine_transform(pool):
    images = pool[0][:16]
    gray = (images.double() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1).numpy()
    for image, value in zip(gray, perceptual_hash(images[:16]).tolist(), strict=True):
        low = dctn(image, norm="ortho")[:8, :8].ravel()
        bits = low > np.sort(low[1:])[31]  # the median of 63, the mean brightness left out
        expected = {place for place in range(1, 64) if bits[place]}
        assert {place for place in range(64) if value >> place & 1} == expected


def bits_apart(first: torch.Tensor, second: torch.Tensor) -> list[int]:
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    return [((a ^ b) & (2**64 - 1)).bit_count() for a, b in pairs]


def test_the_hash_survives_scaling_and_noise_but_not_another_picture(pool):
    images = pool[0][:200]
    hashes = perceptual_hash(images)
    large = F.interpolate(images.float(), scale_factor=4, mode="nearest").to(torch.uint8)
    noise = torch.randint(-1, 2, images.shape, generator=torch.Generator().manual_seed(0))
    noisy = (images + noise).clamp(0, 255).to(torch.uint8)
    assert np.mean(bits_apart(hashes, perceptual_hash(large))) < 4
    assert np.mean(bits_apart(hashes, perceptual_hash(noisy))) < 4
    assert np.mean(bits_apart(hashes, hashes.roll(1))) > 20


def test_flat_pictures_have_one_hash_and_no_descriptor():
    flat = torch.stack([torch.full((3, 40, 40), level, dtype=torch.uint8) for level in (0, 9, 255)])
    assert len(perceptual_hash(flat).unique()) == 1
    assert (copy_descriptors(flat) == 0).all()


def test_brightness_and_contrast_drop_out_of_the_descriptor(pool):
    images = pool[0][:8].float()
    changed = 0.5 * images + torch.tensor([10.0, 30.0, 60.0])[:, None, None]
    torch.testing.assert_close(copy_descriptors(changed), copy_descriptors(images))
    by_channel = copy_descriptors(images).view(8, 3, 256)
    torch.testing.assert_close(by_channel.mean(2), torch.zeros(8, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(by_channel.var(2, correction=0), torch.ones(8, 3))


def test_whitening_is_regularised_pca(tmp_path):
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((400, 6)) * [9, 5, 3, 1, 0.1, 0.1]).astype(np.float32)
    vectors[17] = 0
    whitening = fit_whitening(store(tmp_path / "x", vectors, rows=150), dim=4)
    used = np.delete(vectors, 17, axis=0).astype(np.float64)
    variance = np.linalg.eigvalsh(np.cov(used.T, bias=True))
    projected = (used - whitening.mean) @ whitening.directions
    expected = variance[-4:] / (variance[-4:] + variance.mean())
    np.testing.assert_allclose(np.cov(projected.T, bias=True), np.diag(expected), atol=1e-4)
    whitened = whiten(StoredArray(tmp_path / "x", 400, 150), whitening, tmp_path / "w", block=64)
    rows = np.concatenate([block for _, block in whitened.blocks(100)])
    np.testing.assert_allclose(np.linalg.norm(np.delete(rows, 17, axis=0), axis=1), 1, rtol=1e-5)
    assert (rows[17] == 0).all()


# Embedding


def tiny(n=10):
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 4, 4)
    return ArrayDataset(images.clone())


def test_embedding_goes_on_where_it_was_interrupted(tmp_path):
    seen = []

    def level(pixels):
        seen.extend(pixels[:, 0, 0, 0].tolist())
        if len(seen) == 6 and not resumed:
            raise KeyboardInterrupt
        return pixels[:, 0, 0, 0].float()

    call = {
        "images": tiny(),
        "describe": {"level": level},
        "folder": tmp_path,
        "identity": {"weights": "a"},
        "rows": 4,
        "batch_size": 2,
    }
    resumed = False
    with pytest.raises(KeyboardInterrupt):
        embed(**call)
    resumed = True
    seen.clear()
    stored = embed(**call)["level"]
    assert seen == [4, 5, 6, 7, 8, 9]  # the first file was complete
    assert np.concatenate([rows for _, rows in stored.blocks(3)]).tolist() == list(range(10))
    with pytest.raises(UserError, match="weights was 'a' and is now 'b'"):
        embed(**call | {"identity": {"weights": "b"}})


def test_processes_share_the_files(tmp_path):
    seen = {0: [], 1: []}
    for rank in (0, 1):
        describe = {"x": lambda p, own=seen[rank]: own.extend(p[:, 0, 0, 0].tolist()) or p.sum(1)}
        embed(tiny(), describe, tmp_path, {}, rows=3, processes=Processes(rank, 2, rank))
    assert seen == {0: [0, 1, 2, 6, 7, 8], 1: [3, 4, 5, 9]}
    assert StoredArray(tmp_path / "x", 10, 3).take(np.arange(10))[:, 0, 0].tolist() == [
        3 * level for level in range(10)
    ]


# Neighbours


@pytest.mark.parametrize("block", [7, 64, 1000])
def test_nearest_is_exact_over_blocks(tmp_path, block):
    vectors, queries = directions(300, 8), directions(20, 8, seed=1)
    allowed = np.random.default_rng(2).random(300) < 0.7
    stored = store(tmp_path / "x", vectors, rows=90)
    similarity, index = nearest(stored, queries, 5, block, allowed)
    full = np.where(allowed, queries @ vectors.T, -np.inf)
    np.testing.assert_array_equal(index, np.argsort(-full, axis=1)[:, :5])
    np.testing.assert_allclose(similarity, np.sort(full, axis=1)[:, ::-1][:, :5], rtol=1e-5)


def test_fewer_allowed_than_asked_for(tmp_path):
    allowed = np.arange(30) < 2
    stored = store(tmp_path / "x", directions(30, 4))
    similarity, index = nearest(stored, directions(3, 4, 1), 4, 10, allowed)
    assert (index[:, 2:] == -1).all() and np.isneginf(similarity[:, 2:]).all()
    assert {0, 1} == set(index[:, :2].ravel().tolist())


def all_pairs(stored, threshold, block, k=64):
    found = set()
    for first, second, similarity in similar_pairs(stored, threshold, k, block):
        assert (similarity >= threshold).all()
        found |= {tuple(sorted(pair)) for pair in zip(first.tolist(), second.tolist(), strict=True)}
    return found


@pytest.mark.parametrize("block", [50, 10_000])
def test_similar_pairs_in_one_list_are_all_pairs(tmp_path, block):
    vectors = around(directions(60, 16), 5, 0.5)
    similarity = vectors @ vectors.T
    wanted = {(i, j) for i, j in zip(*np.nonzero(similarity >= 0.7), strict=True) if i < j}
    assert len(wanted) > 300
    assert all_pairs(store(tmp_path / "x", vectors), 0.7, block) == wanted


def test_similar_pairs_over_many_lists_miss_next_to_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours_module, "LIST_SIZE", 40)
    vectors = around(directions(400, 32), 3, 0.4)
    similarity = vectors @ vectors.T
    wanted = {(i, j) for i, j in zip(*np.nonzero(similarity >= 0.7), strict=True) if i < j}
    stored = store(tmp_path / "x", vectors, rows=500)
    found = all_pairs(stored, 0.7, block=33)
    assert found <= wanted and len(found) > 0.98 * len(wanted) > 900
    assert list((tmp_path / "x").glob("tmp*")) == []  # the scratch files are gone


# Duplicates


def test_components_of_pairs_that_come_in_pieces(monkeypatch, tmp_path):
    monkeypatch.setattr("dino_tutorial.curation.duplicates.BUFFER", 3)
    components = Components(9, tmp_path)
    for pair in ((8, 3), (3, 5), (0, 0), (1, 2), (5, 8), (4, 2), (2, 8)):
        components.add(np.array([pair[0]]), np.array([pair[1]]))
    assert components.settle().tolist() == [0, 1, 1, 1, 1, 1, 6, 7, 1]


def described(images, folder):
    stored = embed(ArrayDataset(images), describers(copy_descriptors), folder, {}, rows=300)
    whitening = fit_whitening(stored["copies"])
    return stored, whiten(stored["copies"], whitening, folder / "w", 256), whitening


def test_planted_duplicates_are_found(pool, tmp_path):
    images, _, groups = pool
    stored, whitened, _ = described(images, tmp_path)
    # Not a knife's edge: a tenth of the similarity either way changes next to nothing.
    for similarity in (0.65, 0.75, 0.8):
        found = deduplicate(whitened, stored["hashes"], similarity=similarity, block=100)
        scores = duplicate_scores(found.labels, groups, found.kept)
        assert min(scores.values()) >= 0.95, (similarity, scores)
    by_hash = duplicate_scores(found.hashed, groups, found.hashed == np.arange(len(images)))
    assert by_hash["pair_precision"] >= 0.95 and by_hash["pair_recall"] < 0.6


def test_copies_of_evaluation_images_go_with_all_their_component(pool, tmp_path):
    images, _, groups = pool
    stored, whitened, whitening = described(images, tmp_path)
    victim = int(np.flatnonzero(np.bincount(groups, minlength=len(groups)) >= 2)[0])
    test = images[[victim]].float() * 0.9  # the same picture, darker
    found = deduplicate(
        whitened,
        stored["hashes"],
        whitening(copy_descriptors(test).numpy()),
        evaluation_similarity=0.7,
    )
    assert found.evaluated[groups == victim].all() and (groups == victim).sum() >= 2
    assert found.evaluated.sum() == (groups == victim).sum()
    assert not found.kept[groups == victim].any()


def test_blank_images_are_no_duplicates_and_are_not_kept(pool, tmp_path):
    images = pool[0][:80].clone()
    images[[3, 50]] = 0
    images[60] = 200
    stored, whitened, _ = described(images, tmp_path)
    found = deduplicate(whitened, stored["hashes"])
    assert np.flatnonzero(found.blank).tolist() == [3, 50, 60]
    assert not found.kept[[3, 50, 60]].any()
    assert found.labels[[3, 50, 60]].tolist() == [3, 50, 60]


# Retrieval


def test_nearest_images_of_each_seed_without_repeats(tmp_path):
    vectors = directions(200, 6)
    seeds = np.concatenate((directions(9, 6, 1), directions(9, 6, 1)))  # every seed twice
    found = retrieve_nearest(store(tmp_path / "x", vectors), seeds, 3, block=64)
    top = np.argsort(-(seeds @ vectors.T), axis=1)[:, :3]
    assert found.ids.tolist() == sorted(set(top.ravel().tolist()))
    for image, seed in zip(found.ids, found.seeds, strict=True):
        asking = np.flatnonzero((top == image).any(1))
        assert seed in asking
        assert (seeds @ vectors[image])[seed] == pytest.approx((seeds @ vectors[image]).max())


def test_clusters_with_too_few_seeds_give_nothing(tmp_path):
    centres = np.eye(6, dtype=np.float32)
    pool = store(tmp_path / "x", around(centres, 50, 0.3), rows=64)
    seeds = around(centres[[1, 4]], 5, 0.3, seed=1)
    seeds = np.concatenate((seeds, around(centres[[2]], 3, 0.3, seed=2)))  # only three
    allowed = np.arange(300) % 10 > 0
    found = retrieve_clusters(pool, seeds, 6, 20, block=70, allowed=allowed)
    assert np.bincount(found.ids // 50, minlength=6).tolist() == [0, 20, 0, 0, 20, 0]
    assert allowed[found.ids].all()
    assert ((found.seeds < 5) == (found.ids // 50 == 1)).all()
    other_blocks = retrieve_clusters(pool, seeds, 6, 20, block=33, allowed=allowed)
    assert np.array_equal(found.ids, other_blocks.ids)
    assert not np.array_equal(
        found.ids, retrieve_clusters(pool, seeds, 6, 20, allowed=allowed, seed=1).ids
    )


# Clusters and even sampling


def test_the_hierarchy_finds_groups_of_groups(tmp_path):
    coarse = np.eye(8, dtype=np.float32)[:3]
    fine = around(coarse, 4, 0.5)
    vectors = around(fine, 30, 0.1, seed=3)
    ids = np.arange(0, 360, 2)
    hierarchy = cluster_hierarchy(store(tmp_path / "x", vectors), (12, 3), block=50, ids=ids)
    assert len(hierarchy.assignment) == 180
    for level, each in ((0, 30), (1, 120)):
        clusters = hierarchy.level(level)
        joined = {(a, b) for a, b in zip(clusters.tolist(), (ids // each).tolist(), strict=True)}
        if level == 1:
            assert len(joined) == 3
        assert len({b for _, b in joined}) == 360 // each
    with pytest.raises(ValueError, match="counts must fall"):
        cluster_hierarchy(store(tmp_path / "y", vectors), (3, 12))


def test_the_budget_is_divided_level_by_level():
    # Two coarse clusters: one of 100 + 10 images, one of 6.
    assignment = np.repeat([0, 1, 2], [100, 10, 6])
    hierarchy = Hierarchy(assignment, [np.array([0, 0, 1])])
    chosen = balanced_sample(hierarchy, 40)
    assert np.bincount(assignment[chosen]).tolist() == [24, 10, 6]  # 6, then 34 for 100 and 10
    assert len(np.unique(chosen)) == 40
    assert balanced_sample(hierarchy, 1000).tolist() == list(range(116))
    assert not np.array_equal(chosen, balanced_sample(hierarchy, 40, seed=1))


def test_even_shares_by_hand():
    assert even_shares(np.array([5, 1, 9]), 9).tolist() == [4, 1, 4]
    assert even_shares(np.array([5, 1, 9]), 10).tolist() == [4, 1, 5]
    assert even_shares(np.array([3, 0, 3]), 100).tolist() == [3, 0, 3]
    assert even_shares(np.array([3, 2]), 0).tolist() == [0, 0]


# Measures


def test_scores_by_hand():
    true = np.array([0, 0, 0, 3, 3, 5])
    found = np.array([0, 0, 2, 3, 3, 3])
    kept = found == np.arange(6)
    scores = duplicate_scores(found, true, kept)
    # Found pairs 01, 34, 35, 45; true pairs 01, 02, 12, 34. Removed 1, 4, 5; too many 2 + 1.
    assert scores == pytest.approx(
        {
            "pair_precision": 2 / 4,
            "pair_recall": 2 / 4,
            "removed_precision": 2 / 3,
            "removed_recall": 2 / 3,
        }
    )
    assert purity(np.array([1, 2, -1, 0]), np.array([1, 1, -1, 0])) == 0.5
    assert class_balance(np.array([0, 1, 2, -1, -1]), 3) == pytest.approx(1)
    assert class_balance(np.array([2, 2]), 3) == 0
    half = class_balance(np.array([0, 1]), 4)
    assert half == pytest.approx(0.5)


# All together


def test_the_whole_curation(pool, tmp_path):
    images, labels, groups = pool
    # The true class, blurred: what a good network would say.
    rng = torch.Generator().manual_seed(0)
    classes = F.one_hot(labels + 1, 11).float()
    features = classes + 0.2 * torch.randn(len(labels), 11, generator=rng)
    stored = embed(
        ArrayDataset(images),
        describers(lambda pixels: torch.zeros(len(pixels), 1)) | {"features": copy_descriptors},
        tmp_path / "d",
        {},
        rows=300,
    )
    stored["features"] = store(tmp_path / "f", F.normalize(features).numpy(), rows=300)
    seeds = np.repeat(np.eye(11, dtype=np.float32)[1:], 6, axis=0)
    options = CurationSettings(block=128, clusters=30, size=100)
    result = curate(stored, tmp_path / "w", options, seeds)
    assert len(result.selected) == 100 and (np.diff(result.selected) > 0).all()
    assert np.isin(result.selected, result.retrieved).all()
    assert result.duplicates.kept[result.retrieved].all()
    assert len(np.unique(groups[result.selected])) >= 99  # no copies
    true = labels.numpy()
    assert purity(true[result.clustered.ids], result.clustered.seeds // 6) > 0.9
    assert (true[result.selected] < 0).mean() < 0.1 < (true < 0).mean()
    assert class_balance(true[result.selected], 10) > class_balance(true, 10) + 0.05
    unseeded = curate(stored, tmp_path / "w", CurationSettings(size=100))
    assert len(unseeded.retrieved) == unseeded.duplicates.kept.sum()
    with pytest.raises(UserError, match="no cluster has more than 50 seeds"):
        curate(stored, tmp_path / "w", CurationSettings(retrieval="clusters", more_than=50), seeds)
