"""TRL in a comparison of GRPO steps: its `GRPOTrainer` on PyTorch's CPU build.

    pip install -r experiments/peers/requirements-transformers.txt
"""

import tempfile
from typing import Any

import datasets  # pyright: ignore[reportMissingImports]
import tokenizers
import torch
import transformers
import trl  # pyright: ignore[reportMissingImports]

from experiments.peers.request import StepClock, read_request


def number_tokenizer(vocabulary: int) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of texts that are token ids already."""
    model = tokenizers.models.WordLevel({str(i): i for i in range(vocabulary)}, unk_token='0')
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token='0', bos_token='1', eos_token='2', padding_side='left'
    )


def main() -> None:
    request = read_request()
    clock = StepClock(request)
    model = transformers.AutoModelForCausalLM.from_pretrained(request.folder, dtype=torch.float32)
    texts = [' '.join(map(str, prompt)) for prompt in request.prompts[:: request.group]]

    def reward(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        del columns
        return clock.reward(completion_ids)

    with tempfile.TemporaryDirectory() as folder:
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=trl.GRPOConfig(
                output_dir=folder, use_cpu=True, bf16=request.dtype == 'bfloat16', fp16=False,
                report_to=[], save_strategy='no', logging_steps=1_000_000, disable_tqdm=True,
                per_device_train_batch_size=len(request.prompts), num_generations=request.group,
                steps_per_generation=1, num_iterations=1, max_steps=clock.steps,
                max_completion_length=request.new_tokens, learning_rate=1e-4,
                lr_scheduler_type='constant', beta=0.04, temperature=1.0,
                gradient_checkpointing=False, loss_type='grpo',
                generation_kwargs={'min_new_tokens': request.new_tokens},
            ),
            train_dataset=datasets.Dataset.from_dict({'prompt': texts * clock.steps}),
            processing_class=number_tokenizer(model.config.vocab_size),
        )
        trainer.train()
    clock.report('trl', trl.__version__)


if __name__ == '__main__':
    main()
