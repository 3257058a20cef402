"""Turns pixels into values for a likelihood: unchanged, binarized or dequantized."""

from typing import Any

import tensorflow as tf

import datasets


def observe(pixels: Any, seed: Any, levels: int, likelihood: str) -> tf.Tensor:
    """Turns pixels into values that the likelihood can have, with noise if needed.

    Args:
        pixels: Integers in `[0, levels)`.
        seed: A stateless seed, two integers.
        levels: Number of grey levels; 2 for black and white.
        likelihood: `"bernoulli"`: a pixel is a draw with its grey value as probability;
            otherwise (pixel + uniform noise) / levels.

    Returns:
        A float32 tensor of the same shape.
    """
    grey = tf.cast(pixels, tf.float32)
    if levels == 2:
        return grey
    noise = tf.random.stateless_uniform(tf.shape(grey), seed)
    if likelihood == "bernoulli":
        return tf.cast(noise < grey / (levels - 1), tf.float32)
    return (grey + noise) / levels


def batches(
    images: datasets.Images, likelihood: str, batch_size: int, seed: int
) -> tf.data.Dataset:
    """Shuffled batches, with new noise in every batch of every epoch.

    Args:
        images: The data set; its training images are used.
        likelihood: See `observe`.
        batch_size: Length of a batch.
        seed: Seed of the order and of the noise.

    Returns:
        A dataset of float32 images.
    """
    pixels = tf.constant(images.train)
    rows = tf.data.Dataset.range(len(pixels)).shuffle(len(pixels), seed=seed)
    seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)

    def make(rows: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return observe(tf.gather(pixels, rows), seed, images.levels, likelihood)

    pairs = tf.data.Dataset.zip(rows.batch(batch_size), seeds)
    return pairs.map(make, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
