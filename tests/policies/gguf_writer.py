"""Small GGUF files as llama.cpp's converter writes them."""

import gguf
import numpy as np

from mrt_jax.models.tensors import to_hf_tensors
from tests.tiny import tiny_model

# Names as llama.cpp has them.
NAMES = {
    'model.embed_tokens': 'token_embd', 'model.norm': 'output_norm', 'lm_head': 'output',
    'input_layernorm': 'attn_norm', 'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k',
    'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output', 'mlp.up_proj': 'ffn_up',
    'self_attn.q_norm': 'attn_q_norm', 'self_attn.k_norm': 'attn_k_norm',
    'post_attention_layernorm': 'ffn_norm', 'mlp.gate_proj': 'ffn_gate',
    'mlp.down_proj': 'ffn_down',
}
CHAT = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


def llama_cpp_name(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = name.replace(f'{ours}.', f'{theirs}.')
    return name.replace('model.layers.', 'blk.')


def interleave(array, heads):
    """What llama.cpp's converter does to queries and keys of Llama."""
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def write_gguf(
    file, *, architecture='llama', values=(), skip=(), beside=(), quantise=(), pre='smollm', **shape
):
    """A GGUF file of a tiny network; gives (config, params)."""
    model, params = tiny_model(
        family=architecture, vocab_size=264, tie_embeddings=False, **shape
    )
    c = model.config
    writer = gguf.GGUFWriter(str(file), architecture)
    writer.add_block_count(c.num_layers)
    writer.add_context_length(c.max_positions)
    writer.add_embedding_length(c.width)
    writer.add_feed_forward_length(c.ffn_width)
    writer.add_head_count(c.num_heads)
    writer.add_head_count_kv(c.num_kv_heads)
    writer.add_key_length(c.head_width)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_rope_freq_base(c.rope_base)
    bytes_in_order = [b for b in range(256) if chr(b).isprintable() and b not in (32, 173, 160)]
    others = [b for b in range(256) if b not in bytes_in_order]
    alphabet = [chr(b) for b in bytes_in_order] + [chr(256 + i) for i in range(len(others))]
    tokens = [*alphabet, 'ab', 'Ġab', '<|im_start|>', '<|im_end|>', 'un', '1', '12', '<think>']
    tokens = list(dict.fromkeys(tokens))
    tokens += [f'<unused{i}>' for i in range(c.vocab_size - len(tokens))]
    kinds = [3 if t.startswith('<|') else 4 if t == '<think>' else 1 for t in tokens]
    writer.add_tokenizer_model('gpt2')
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(['a b', 'Ġ ab', 'u n', '1 2'])
    writer.add_eos_token_id(tokens.index('<|im_end|>'))
    writer.add_chat_template(CHAT)
    for key, value in values:
        (writer.add_bool if isinstance(value, bool) else writer.add_uint32)(key, value)
    for name, tensor in to_hf_tensors(params, c):
        if name in skip:
            continue
        tensor = np.ascontiguousarray(tensor, np.float32)
        if architecture == 'llama' and 'q_proj' in name:
            tensor = np.ascontiguousarray(interleave(tensor, c.num_heads))
        if architecture == 'llama' and 'k_proj' in name:
            tensor = np.ascontiguousarray(interleave(tensor, c.num_kv_heads))
        kind = gguf.GGMLQuantizationType.F32
        if any(part in name for part in quantise):
            kind = gguf.GGMLQuantizationType.Q8_0
            tensor = gguf.quantize(tensor, kind)
        writer.add_tensor(llama_cpp_name(name), tensor, raw_dtype=kind)
    for name in beside:
        writer.add_tensor(name, np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return c, params
