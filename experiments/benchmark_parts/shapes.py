"""Shapes of policies by name, see `models.config.ModelConfig`."""

from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    'smollm2_135m': dict(
        family='llama', vocab_size=49152, width=576, num_layers=30, num_heads=9, num_kv_heads=3,
        head_width=64, ffn_width=1536, max_positions=8192, tie_embeddings=True,
    ),
    'countdown': dict(
        family='llama', vocab_size=64, width=128, num_layers=5, num_heads=2, num_kv_heads=1,
        head_width=64, ffn_width=512, max_positions=2048, tie_embeddings=True,
    ),
    'qwen2_5_0_5b': dict(
        family='qwen2', vocab_size=151936, width=896, num_layers=24, num_heads=14, num_kv_heads=2,
        head_width=64, ffn_width=4864, max_positions=32768, tie_embeddings=True,
        attention_bias=True,
    ),
    'qwen2_5_1_5b': dict(
        family='qwen2', vocab_size=151936, width=1536, num_layers=28, num_heads=12, num_kv_heads=2,
        head_width=128, ffn_width=8960, max_positions=32768, tie_embeddings=True,
        attention_bias=True,
    ),
}
