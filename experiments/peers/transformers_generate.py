"""transformers in a comparison of samplers: `generate` of PyTorch's CPU build.

    pip install -r experiments/peers/requirements-transformers.txt
"""

import torch
import transformers

from experiments.peers.request import read_request, report


def main() -> None:
    request = read_request()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        request.folder, dtype=getattr(torch, request.dtype)
    )
    model.eval()
    prompts = torch.tensor(request.distinct_prompts)
    options = transformers.GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=request.new_tokens,
        min_new_tokens=request.new_tokens, num_return_sequences=request.group, pad_token_id=0,
        eos_token_id=None,
    )

    def sample() -> int:
        with torch.inference_mode():
            sequences = model.generate(
                prompts, attention_mask=torch.ones_like(prompts), generation_config=options
            )
        return len(sequences) * (sequences.shape[1] - prompts.shape[1])

    report('transformers', transformers.__version__, request, sample)


if __name__ == '__main__':
    main()
