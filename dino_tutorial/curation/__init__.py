"""From a pool of crawled images to a set worth training on.

DINOv2's curation was never released; here are its steps for any folder of images: describe every
image once, remove duplicates, retrieve around curated seeds, sample evenly from a hierarchy of
clusters. What is stored of an image is read a block at a time. What stays in memory besides that
is a few bytes an image.
"""

from dino_tutorial.curation.balance import balanced_sample, even_shares
from dino_tutorial.curation.clusters import Hierarchy, cluster_hierarchy
from dino_tutorial.curation.descriptors import copy_descriptors, perceptual_hash
from dino_tutorial.curation.duplicates import Components, Deduplication, deduplicate
from dino_tutorial.curation.embedding import embed
from dino_tutorial.curation.measure import class_balance, duplicate_scores, purity
from dino_tutorial.curation.neighbours import nearest, similar_pairs
from dino_tutorial.curation.pipeline import Curation, CurationSettings, curate, describers
from dino_tutorial.curation.retrieve import Retrieved, retrieve_clusters, retrieve_nearest
from dino_tutorial.curation.whitening import Whitening, fit_whitening, whiten
from dino_tutorial.evaluation.storage import StoredArray, store

__all__ = [
    "Components",
    "Curation",
    "CurationSettings",
    "Deduplication",
    "Hierarchy",
    "Retrieved",
    "StoredArray",
    "Whitening",
    "balanced_sample",
    "class_balance",
    "cluster_hierarchy",
    "copy_descriptors",
    "curate",
    "deduplicate",
    "describers",
    "duplicate_scores",
    "embed",
    "even_shares",
    "fit_whitening",
    "nearest",
    "perceptual_hash",
    "purity",
    "retrieve_clusters",
    "retrieve_nearest",
    "similar_pairs",
    "store",
    "whiten",
]
