"""Training: one loop, and the parts that every method shares."""

from dino_tutorial.methods.schedules import cosine_schedule, linear_warmup
from dino_tutorial.methods.teacher import Teacher
from dino_tutorial.training.optim import clip_gradients, param_groups

__all__ = ["Teacher", "clip_gradients", "cosine_schedule", "linear_warmup", "param_groups"]
