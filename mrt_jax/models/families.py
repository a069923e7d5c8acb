"""One table of model families: their switches, and the names of their tensors."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Family:
    """What tells a family from the others.

    Attributes:
        architecture: class that transformers loads it with.
        attention_bias: biases on queries, keys and values when the config does not say.
        output_bias: `attention_bias` also puts a bias on attention's output.
        qk_norm: RMS norm on each head's queries and keys.
        window_by_default: `sliding_window` counts without `use_sliding_window`.
        max_positions: context when the config does not say.
    """

    architecture: str
    attention_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    window_by_default: bool = False
    max_positions: int = 2048


FAMILIES = {
    'llama': Family('LlamaForCausalLM', output_bias=True),
    'mistral': Family('MistralForCausalLM', window_by_default=True, max_positions=131_072),
    'qwen2': Family('Qwen2ForCausalLM', attention_bias=True, max_positions=32_768),
    'qwen3': Family('Qwen3ForCausalLM', output_bias=True, qk_norm=True, max_positions=32_768),
}
