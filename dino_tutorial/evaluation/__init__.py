"""What frozen features are worth, measured with baselines beside every number.

Everything works on plain tensors; only `features`, `patches`,
`baselines`, `dense` and `robustness` look at data sets.
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
from dino_tutorial.evaluation.collapse import (
    Collapse,
    effective_rank,
    entropy,
    feature_spread,
    find_collapse,
)
from dino_tutorial.evaluation.dense import evaluate_dense
from dino_tutorial.evaluation.depth import LinearDepth, align_depth, depth_scores, linear_depth
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
from dino_tutorial.evaluation.few_labels import (
    LabelEfficiency,
    label_efficiency,
    nested_subsets,
)
from dino_tutorial.evaluation.knn import (
    accuracy,
    knn_accuracies,
    knn_classify,
    nearest_neighbours,
)
from dino_tutorial.evaluation.linear import LinearProbe, linear_probe
from dino_tutorial.evaluation.matching import Matches, mutual_matches
from dino_tutorial.evaluation.patches import extract_patches
from dino_tutorial.evaluation.pca import component_colors, patch_pca
from dino_tutorial.evaluation.retrieval import copy_detection, recall_at, retrieval_map
from dino_tutorial.evaluation.robustness import (
    CorruptedImages,
    Robustness,
    mean_corruption_error,
    measure_robustness,
)
from dino_tutorial.evaluation.scaling import ScalingLaw, fit_scaling_law
from dino_tutorial.evaluation.segmentation import (
    LinearSegmentation,
    class_maps,
    confusion_matrix,
    intersection_over_union,
    linear_segmentation,
)
from dino_tutorial.evaluation.video import (
    label_masks,
    propagate_labels,
    region_and_boundary,
    video_scores,
)

__all__ = [
    "Collapse",
    "LabelEfficiency",
    "LinearDepth",
    "LinearProbe",
    "LinearSegmentation",
    "Matches",
    "Robustness",
    "ScalingLaw",
    "CorruptedImages",
    "accuracy",
    "align_depth",
    "attention_jaccard",
    "attention_masks",
    "box_iou",
    "center_box",
    "class_maps",
    "cls_attention",
    "color_histogram",
    "color_masks",
    "component_colors",
    "confusion_matrix",
    "copy_detection",
    "corloc",
    "depth_scores",
    "discovery_scores",
    "effective_rank",
    "entropy",
    "evaluate_dense",
    "evaluate_knn",
    "evaluating",
    "extract_features",
    "extract_patches",
    "feature_spread",
    "find_collapse",
    "video_scores",
    "fit_scaling_law",
    "intersection_over_union",
    "jaccard",
    "knn_accuracies",
    "knn_classify",
    "label_efficiency",
    "label_masks",
    "linear_depth",
    "linear_probe",
    "linear_segmentation",
    "lost_masks",
    "mask_boxes",
    "mean_corruption_error",
    "measure_robustness",
    "mutual_matches",
    "nearest_neighbours",
    "nested_subsets",
    "normalize",
    "patch_pca",
    "patch_pixels",
    "pixel_features",
    "propagate_labels",
    "recall_at",
    "region_and_boundary",
    "retrieval_map",
    "token_cut_masks",
]
