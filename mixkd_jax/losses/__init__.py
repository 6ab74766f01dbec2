"""Distillation losses as pure functions of logits.

The losses take the student's logits first and the teacher's second, give one value per
example in nats (`relational_loss` one per batch), compute in float32 at least,
and work under `jit`, `vmap`, `grad` and `shard_map`. Mean or sum is the caller's.
"""

from mixkd_jax.losses.decoupled import decoupled_kl
from mixkd_jax.losses.distillation import (
    cross_entropy,
    distillation_kl,
    distillation_loss,
    logit_standardization_kl,
    standardize,
)
from mixkd_jax.losses.refined import masked_correlation_kl, sample_confidence_kl
from mixkd_jax.losses.relational import relational_loss

__all__ = [
    "cross_entropy",
    "decoupled_kl",
    "distillation_kl",
    "distillation_loss",
    "logit_standardization_kl",
    "masked_correlation_kl",
    "relational_loss",
    "sample_confidence_kl",
    "standardize",
]
