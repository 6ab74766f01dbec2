"""Distillation losses as pure functions of logits."""

from mixkd_jax.losses.distillation import cross_entropy, distillation_kl, distillation_loss

__all__ = ["cross_entropy", "distillation_kl", "distillation_loss"]
