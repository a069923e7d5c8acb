"""One file a family: its switches and the names of its tensors. This is their registry."""

from collections.abc import Mapping

from mrt_jax.models.families.family import Family
from mrt_jax.models.families.gemma2 import GEMMA2
from mrt_jax.models.families.gemma3 import GEMMA3_TEXT
from mrt_jax.models.families.llama import LLAMA
from mrt_jax.models.families.mistral import MISTRAL
from mrt_jax.models.families.qwen2 import QWEN2
from mrt_jax.models.families.qwen3 import QWEN3

FAMILIES: Mapping[str, Family] = {
    'llama': LLAMA,
    'mistral': MISTRAL,
    'qwen2': QWEN2,
    'qwen3': QWEN3,
    'gemma2': GEMMA2,
    'gemma3_text': GEMMA3_TEXT,
}
