"""google-tunix in a comparison of samplers: its own `Sampler`, on a Llama.

    pip install -r experiments/peers/requirements-tunix.txt
"""

import json
from importlib.metadata import version

import jax.numpy as jnp
from tunix.generate import sampler as tunix_sampler  # pyright: ignore[reportMissingImports]
from tunix.models.llama3 import model as llama3  # pyright: ignore[reportMissingImports]
from tunix.models.llama3 import params as llama3_params  # pyright: ignore[reportMissingImports]

from experiments.peers.request import Request, read_request, report


class Numbers:
    """A tokenizer of texts that are token ids already."""

    def encode(self, text: str, **options: object) -> list[int]:
        del options
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int], **options: object) -> str:
        del options
        return ' '.join(str(int(number)) for number in ids)

    def bos_id(self) -> int:
        return 1

    def eos_id(self) -> int:
        return 2

    def pad_id(self) -> int:
        return 0


def load(request: Request) -> tuple[llama3.Llama3, llama3.ModelConfig]:
    """The policy of the request's folder."""
    config = json.loads((request.folder / 'config.json').read_text())
    heads, width = config['num_attention_heads'], config['hidden_size']
    rope = config.get('rope_theta') or config['rope_parameters']['rope_theta']
    shape = llama3.ModelConfig(
        num_layers=config['num_hidden_layers'], vocab_size=config['vocab_size'], embed_dim=width,
        hidden_dim=config['intermediate_size'], num_heads=heads, head_dim=width // heads,
        num_kv_heads=config['num_key_value_heads'], rope_theta=rope,
        norm_eps=config['rms_norm_eps'], weight_tying=config['tie_word_embeddings'],
    )
    model = llama3_params.create_model_from_safe_tensors(
        str(request.folder), shape, dtype=jnp.dtype(request.dtype)
    )
    return model, shape


def as_texts(prompts: list[list[int]]) -> list[str]:
    """Prompts for `Numbers`; one token less, as the sampler puts a first one before each."""
    return [' '.join(map(str, prompt[1:])) for prompt in prompts]


def main() -> None:
    request = read_request()
    model, shape = load(request)
    prompt_tokens = len(request.prompts[0])
    sampler = tunix_sampler.Sampler(
        model, Numbers(),
        tunix_sampler.CacheConfig(
            cache_size=prompt_tokens + request.new_tokens + 8, num_layers=shape.num_layers,
            num_kv_heads=shape.num_kv_heads, head_dim=shape.head_dim,
        ),
    )
    prompts = as_texts(request.prompts)
    seeds = iter(range(1_000_000))

    def sample() -> int:
        output = sampler(
            prompts, max_generation_steps=request.new_tokens, max_prompt_length=prompt_tokens,
            temperature=1.0, top_p=1.0, seed=next(seeds), forbidden_tokens=[0, 2],
        )
        return sum(len(tokens) for tokens in output.tokens)

    report('google-tunix', version('google-tunix'), request, sample)


if __name__ == '__main__':
    main()
