"""What frozen features are worth, measured with baselines beside every number.

Everything works on plain tensors; only `features`, `baselines` and
`robustness` look at data sets.
"""

from dino_tutorial.evaluation.attention import (
    attention_jaccard,
    attention_masks,
    center_box,
    cls_attention,
    jaccard,
)
from dino_tutorial.evaluation.baselines import (
    color_histogram,
    evaluate_knn,
    patch_pixels,
    pixel_features,
)
from dino_tutorial.evaluation.collapse import effective_rank, entropy, feature_spread
from dino_tutorial.evaluation.discovery import (
    box_iou,
    color_masks,
    corloc,
    discovery_scores,
    lost_masks,
    mask_boxes,
    token_cut_masks,
)
from dino_tutorial.evaluation.features import evaluating, extract_features, normalize
from dino_tutorial.evaluation.knn import (
    accuracy,
    knn_accuracies,
    knn_classify,
    nearest_neighbours,
)
from dino_tutorial.evaluation.label_efficiency import (
    LabelEfficiency,
    label_efficiency,
    nested_subsets,
)
from dino_tutorial.evaluation.linear import LinearProbe, linear_probe
from dino_tutorial.evaluation.pca import component_colors, patch_pca
from dino_tutorial.evaluation.retrieval import copy_detection, recall_at, retrieval_map
from dino_tutorial.evaluation.robustness import (
    Robustness,
    SpoiledImages,
    mean_corruption_error,
    measure_robustness,
)
from dino_tutorial.evaluation.video import (
    film_scores,
    label_masks,
    propagate_labels,
    region_and_boundary,
)

__all__ = [
    "LabelEfficiency",
    "LinearProbe",
    "Robustness",
    "SpoiledImages",
    "accuracy",
    "attention_jaccard",
    "attention_masks",
    "box_iou",
    "center_box",
    "cls_attention",
    "color_histogram",
    "color_masks",
    "component_colors",
    "copy_detection",
    "corloc",
    "discovery_scores",
    "effective_rank",
    "entropy",
    "evaluate_knn",
    "evaluating",
    "extract_features",
    "feature_spread",
    "film_scores",
    "jaccard",
    "knn_accuracies",
    "knn_classify",
    "label_efficiency",
    "label_masks",
    "linear_probe",
    "lost_masks",
    "mask_boxes",
    "mean_corruption_error",
    "measure_robustness",
    "nearest_neighbours",
    "nested_subsets",
    "normalize",
    "patch_pca",
    "pixel_features",
    "patch_pixels",
    "propagate_labels",
    "recall_at",
    "region_and_boundary",
    "retrieval_map",
    "token_cut_masks",
]
