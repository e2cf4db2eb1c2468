"""The settings of the k-NN classifier: ``knn.*``."""

from dataclasses import dataclass

from dino_tutorial.options import Settings, option


@dataclass(frozen=True)
class KNNSettings(Settings):
    """The weighted k-NN classifier, and the size of the small one that watches training."""

    k: int = option(20, "Neighbours that vote.", low=1)
    temperature: float = option(
        0.07, "A neighbour's vote weighs exp(cosine / temperature).", low=0.001
    )
    watch_bank: int = option(2000, "Training images that vote when k-NN watches training.", low=10)
    watch_queries: int = option(500, "Training images that are classified then.", low=10)
