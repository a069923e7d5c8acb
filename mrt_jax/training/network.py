"""The network of a training run, the policy's with the config's dtypes, memory and adapters, and
the optimiser of what trains in it."""

from typing import Any

import jax
import optax
from absl import logging
from jax.sharding import Mesh

from mrt_jax.errors import InputError
from mrt_jax.models.attention_kernels import KERNELS, ROW_MULTIPLE, fastest_kernel
from mrt_jax.models.cache import CACHE_DTYPES, COMPUTE
from mrt_jax.models.config import ModelConfig
from mrt_jax.models.precision import PRECISIONS, precision_on
from mrt_jax.models.transformer import REMAT_POLICIES, Transformer
from mrt_jax.training.optimizer import OptimizerConfig, make_optimizer

DTYPES = ('float32', 'bfloat16')


def check_network(config: Any) -> None:
    """Checks the keys of a network and of its files, before a policy is read.

    Raises:
        InputError: names the key and what it may be.
    """
    others = {
        'compute_dtype': tuple(PRECISIONS), 'remat': tuple(REMAT_POLICIES),
        'attention': ('auto', 'measured', *KERNELS),
    }
    known = dict.fromkeys(('param_dtype', 'save_dtype'), DTYPES)
    if 'cache_dtype' in config:  # Fine-tuning samples nothing.
        others['cache_dtype'] = CACHE_DTYPES
    for key, values in {**known, **others}.items():
        if config[key] not in values:
            raise InputError(f'{key}={config[key]!r} is unknown; known: {", ".join(values)}')
    if config.attention == 'cudnn' and config.compute_dtype != 'bfloat16':
        raise InputError(
            f"attention='cudnn' with compute_dtype={config.compute_dtype!r}: it takes bfloat16 "
            "only; set compute_dtype='bfloat16', or attention='auto'"
        )
    if config.attention == 'cudnn' and config.mesh.sequence != 1:
        raise InputError(
            f"attention='cudnn' with mesh.sequence={config.mesh.sequence}: it cannot begin within "
            "a row, as the queries of all devices but the first do; give attention='auto'"
        )
    _check_sharing(config, config.attention)
    if config.lora_rank < 0:
        raise InputError(
            f'lora_rank={config.lora_rank} must be at least 0; 0 trains all parameters'
        )


def check_on_mesh(config: Any, mesh: Mesh) -> None:
    """Checks what was asked for against the devices of the run.

    Raises:
        InputError: they do not round products, or the attention kernel takes no rows of an update
            of this length.
    """
    precision_on(config.compute_dtype, mesh)
    multiple = ROW_MULTIPLE * mesh.shape['sequence']
    if config.attention in ('splash', 'cudnn') and config.row_tokens % multiple:
        raise InputError(
            f'row_tokens={config.row_tokens} with attention={config.attention!r} must be a '
            f'multiple of {ROW_MULTIPLE} x mesh.sequence = {multiple}'
        )


def _check_sharing(config: Any, kernel: str) -> None:
    if kernel == 'splash' and config.get('share_prompts', False):
        raise InputError(
            f'share_prompts=True with attention={config.attention!r}: the kernel on TPU, splash, '
            "shows no prompt to several traces; set share_prompts=False, or attention='plain'"
        )


def make_network(config: Any, model_config: ModelConfig) -> Transformer:
    """The network that a run trains.

    With attention='measured' its kernel is 'plain' until `with_measured_kernel` has measured.

    Args:
        config: has passed `check_network`.
        model_config: the policy's.

    Raises:
        InputError: its attention kernel cannot show a shared prompt to several traces.
    """
    precision = PRECISIONS[config.compute_dtype]
    kernel = 'plain' if config.attention == 'measured' else config.attention
    if kernel == 'auto':
        kernel = fastest_kernel(
            jax.default_backend(), model_config, dtype=precision.dtype,
            tokens_split=config.mesh.sequence != 1,
        )
        logging.info('attention: %s', kernel)
    _check_sharing(config, kernel)
    return Transformer(
        model_config, remat=config.remat, param_dtype=config.param_dtype,
        lora_rank=config.lora_rank, kernel=kernel, cache_dtype=config.get('cache_dtype', COMPUTE),
        **precision._asdict(),
    )


def trained_dtype(model: Transformer) -> str:
    """Dtype of the parameters that train: adapters are float32 whatever they adapt."""
    return 'float32' if model.lora_rank else model.param_dtype


def read_optimizer(config: Any, model: Transformer, updates: int) -> optax.GradientTransformation:
    """The optimiser of so many updates.

    Raises:
        InputError: see `OptimizerConfig`.
    """
    return make_optimizer(
        OptimizerConfig(**config.optimizer), updates, trained_dtype(model)
    )
