"""Models of a user's own, right and wrong, by name: "small_nets:plain"."""

import flax.linen as nn
import jax.numpy as jnp


class Plain(nn.Module):
    """A linear classifier that doesn't give its features."""

    num_classes: int
    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, images, train=False):
        del train
        x = images.reshape(images.shape[0], -1)
        return nn.Dense(self.num_classes, param_dtype=self.dtype)(x).astype(jnp.float32)


class NoTrain(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.num_classes)(images.reshape(images.shape[0], -1))


class Cached(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images, train=False):
        self.variable("cache", "seen", jnp.zeros, ())
        return nn.Dense(self.num_classes)(images.reshape(images.shape[0], -1))


def plain(num_classes, dtype):
    del dtype
    return Plain(num_classes)


def no_arguments():
    return Plain(3)


def no_module(num_classes, dtype):
    return {"classes": num_classes, "dtype": dtype}


def no_train(num_classes, dtype):
    del dtype
    return NoTrain(num_classes)


def wrong_logits(num_classes, dtype):
    del dtype
    return Plain(num_classes + 1)


def half(num_classes, dtype):
    del dtype
    return Plain(num_classes, jnp.bfloat16)


def cached(num_classes, dtype):
    del dtype
    return Cached(num_classes)
