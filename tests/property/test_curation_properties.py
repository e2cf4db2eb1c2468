"""What holds for any pool: components partition it, shares add up, samples are samples."""

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dino_tutorial.curation import (
    Components,
    duplicate_scores,
    duplicates,
    even_shares,
    retrieve,
)
from dino_tutorial.curation.balance import sample_of_each
from dino_tutorial.evaluation.storage import store

sizes = arrays.arrays(np.int64, st.integers(1, 12), elements=st.integers(0, 50))


@given(sizes, st.integers(0, 400))
def test_even_shares_fill_up_to_one_limit(sizes, total):
    shares = even_shares(sizes, total)
    assert shares.sum() == min(total, sizes.sum())
    assert (shares >= 0).all() and (shares <= sizes).all()
    # A group with room left has no less than any other, but for the indivisible rest.
    room = shares < sizes
    if room.any():
        assert shares[room].min() >= shares.max() - 1


edges = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40)


@given(edges, st.integers(1, 6), st.integers(1, 25))
def test_components_are_those_of_the_graph(edges, piece, buffer):
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(duplicates, "BUFFER", buffer):
        labels = labels_of(edges, piece, Path(folder))
    first, second = np.array(edges, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges)), (first, second)), (20, 20))
    count, expected = connected_components(graph, directed=False)
    for component in range(count):
        members = np.flatnonzero(expected == component)
        assert (labels[members] == members.min()).all()


def labels_of(edges, piece, folder):
    components = Components(20, folder)
    for start in range(0, len(edges), piece):
        first, second = np.array(edges[start : start + piece]).T
        components.add(first, second)
        if start % 2:
            components.settle()
    return components.settle()


@given(
    arrays.arrays(np.int64, st.integers(2, 40), elements=st.integers(-3, 3)),
    st.integers(0, 100),
    st.integers(1, 30),
)
@settings(deadline=None)  # it writes files, and how fast a disk is says nothing of the code
def test_equal_hashes_are_connected_and_blank_images_are_not(hashes, seed, buffer):
    blank = np.random.default_rng(seed).random(len(hashes)) < 0.3
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(duplicates, "BUFFER", buffer):
        components = Components(len(hashes), Path(folder))
        stored = store(Path(folder) / "hashes", hashes, rows=7)
        for first, second in duplicates.equal_hashes(stored, blank, block=5):
            components.add(first, second)
        labels = components.settle()
    for i, label in enumerate(labels):
        like = np.flatnonzero((hashes == hashes[i]) & ~blank)
        assert label == (i if blank[i] else like[0])


@given(arrays.arrays(bool, st.integers(1, 40)), st.data(), st.integers(1, 50))
def test_places_of_ranks_are_those_of_a_list_of_all_places(allowed, data, buffer):
    there = np.flatnonzero(allowed)
    some = st.lists(st.integers(0, max(0, len(there) - 1)), unique=True, max_size=len(there))
    ranks = np.array(sorted(data.draw(some)), np.int64)
    with mock.patch.object(retrieve, "BUFFER", buffer):
        assert retrieve.true_places(allowed, ranks).tolist() == there[ranks].tolist()


@given(
    arrays.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 5)),
    st.integers(0, 12),
    st.integers(1, 20),
    st.integers(1, 30),
    st.integers(0, 1000),
)
def test_images_drawn_block_by_block_are_those_with_the_smallest_keys(
    clusters, per_cluster, block, buffer, seed
):
    ids, keys = np.arange(len(clusters)), np.random.default_rng(seed).random(len(clusters))
    with mock.patch.object(retrieve, "BUFFER", buffer):
        drawn = retrieve._Drawn(per_cluster)
        for start in range(0, len(ids), block):
            part = slice(start, start + block)
            drawn.add(ids[part], clusters[part], keys[part])
        found, theirs = drawn.settle()
    wanted = [i for i in ids if (keys[clusters == clusters[i]] < keys[i]).sum() < per_cluster]
    assert found.tolist() == wanted and theirs.tolist() == clusters[wanted].tolist()


@given(
    arrays.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 5)),
    arrays.arrays(np.int64, 6, elements=st.integers(0, 20)),
    st.integers(0, 1000),
)
def test_a_sample_of_each_group_has_the_wanted_size(groups, amounts, seed):
    chosen = sample_of_each(groups, amounts, seed)
    assert len(np.unique(chosen)) == len(chosen)
    sizes = np.bincount(groups, minlength=6)
    counts = np.bincount(groups[chosen], minlength=6)
    assert counts.tolist() == np.minimum(sizes, amounts).tolist()


groupings = arrays.arrays(np.int64, 15, elements=st.integers(0, 14))


@settings(max_examples=50)
@given(groupings, groupings)
def test_pair_scores_against_counting_every_pair(found, true):
    scores = duplicate_scores(found, true, np.ones(15, bool))
    upper = np.triu(np.ones((15, 15), bool), 1)
    ours, theirs = (upper & (g[:, None] == g[None]) for g in (found, true))
    both = (ours & theirs).sum()
    for name, whole in (("pair_precision", ours.sum()), ("pair_recall", theirs.sum())):
        assert scores[name] == (both / whole if whole else 1)
    assert scores["removed_precision"] == 1
