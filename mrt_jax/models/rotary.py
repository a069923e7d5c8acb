"""Rotary positions (Su et al., arXiv 2104.09864) and their stretched variants."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from mrt_jax.models.config import ModelConfig, RopeScaling


def rotary_frequencies(config: ModelConfig, *, local: bool = False) -> tuple[np.ndarray, float]:
    """Radians a position for each of the C / 2 planes (float32), and the factor on the rotation.

    Args:
        config: bases and scaling.
        local: those of the layers with a sliding window.

    Sources of the variants: linear, Chen et al., arXiv 2306.15595; llama3, the Llama 3.1 model
    card; yarn, Peng et al., arXiv 2309.00071.
    """
    planes = np.arange(0, config.head_width, 2, dtype=np.float64) / config.head_width
    if local and config.local_rope_base is not None:
        return (config.local_rope_base**-planes).astype(np.float32), 1.0
    frequencies = config.rope_base**-planes
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies.astype(np.float32), 1.0
    if scaling.kind == 'linear':
        return (frequencies / scaling.factor).astype(np.float32), 1.0
    if scaling.kind == 'llama3':
        return _llama3(frequencies, scaling).astype(np.float32), 1.0
    factor = scaling.attention_factor
    if factor is None:
        factor = 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
    return _yarn(frequencies, scaling, config).astype(np.float32), factor


def _llama3(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Keeps fast planes, stretches slow ones, and goes smoothly from one to the other."""
    rotations = scaling.original_positions * frequencies / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    keep = np.clip((rotations - low) / (high - low), 0, 1)
    return keep * frequencies + (1 - keep) * frequencies / scaling.factor


def _yarn(frequencies: np.ndarray, scaling: RopeScaling, config: ModelConfig) -> np.ndarray:
    """Keeps planes of many rotations over the original context, stretches those of few."""

    def plane_of(rotations: float) -> float:
        ratio = scaling.original_positions / (rotations * 2 * math.pi)
        return config.head_width * math.log(ratio) / (2 * math.log(config.rope_base))

    first = max(math.floor(plane_of(scaling.beta_fast)), 0)
    last = min(math.ceil(plane_of(scaling.beta_slow)), config.head_width - 1)
    span = max(last - first, 0.001)
    stretch = np.clip((np.arange(len(frequencies)) - first) / span, 0, 1)
    return stretch * frequencies / scaling.factor + (1 - stretch) * frequencies


def rotation(
    config: ModelConfig, positions_BT: jax.Array, *, local: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of every position, float32[B, 1, T, C / 2]; see `rotary_frequencies`."""
    frequencies, factor = rotary_frequencies(config, local=local)
    angles = positions_BT[:, None, :, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(x_BHTC: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Rotates the planes (c, c + C / 2) of every head, in float32."""
    first, second = jnp.split(x_BHTC.astype(jnp.float32), 2, axis=-1)
    turned = (first * cosines - second * sines, second * cosines + first * sines)
    return jnp.concatenate(turned, axis=-1).astype(x_BHTC.dtype)
