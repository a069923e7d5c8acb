"""Countdown: reach a target with + - * / from a few numbers, searching in marked attempts.

python -m experiments.train --config=configs/countdown.py:VARIANT --workdir=runs/countdown

| variant | what it runs |
| --- | --- |
| demo (default) | outcome reward and MRT from the shipped warm start, compared on the test split |
| compare | outcome reward, a length penalty, MRT's credits: three seeds, equal updates and tokens |
| methods | outcome reward, fine-tuning and MRT's forms: three seeds, equal updates and tokens |
| arms=A+B+... | variants below by name, compared with the first: three seeds, equal updates |
| sft | the supervised warm start that made experiments/policies/countdown |

Outcome reward:

| variant | what it runs |
| --- | --- |
| grpo | the group's mean and deviation, mean over each response |
| dr_grpo | no deviation, sum over tokens |
| rloo | the mean of the other rollouts as baseline, no deviation |
| dapo | clips higher, mean over all tokens, groups without signal sampled anew, cut ones masked |
| gspo | one ratio a sequence, clipped narrowly, two updates a step |
| length_penalty, length_penalty_arora | with the penalty of Kimi k1.5, or of Arora and Zanette |
| pass_at_k, maj_at_k | what a rollout adds to pass@4 or maj@4 of its group |

MRT:

| variant | what it runs |
| --- | --- |
| mrt | outcome + alpha x progress of each episode, on that episode's tokens |
| mrt_to_go | progress from each episode to the trace's end |
| mrt_scalar | progress summed over the trace |
| mrt_opens | mrt, the token that ends an episode with the credit of the one that it opens |
| mrt_one_branch | mrt with one answer at each boundary instead of four: half the tokens a step |
| mrt_rl | groups that share a prefix; those that think on are paid for what they add to stopping |
| mrt_rl_published | r' = r + alpha (r - J) for all and GRPO's normaliser, where alpha cancels |
| mrt_rl_mixed | the published reward over two prefixes a group, where it does not |
| segments | progress over even windows of tokens in place of episodes (SPO-chain) |
| brpo | anytime reward over even budgets in place of the outcome (AnytimeReasoner) |

Fine-tuning:

| variant | what it runs |
| --- | --- |
| star | STaR: on every own trace whose answer is right, iterated |
| mrt_star | MRT (STaR): on own thoughts cut where J is highest first, a right answer behind |
| mrt_star_full | on the whole trace of most progress whose own answer is right |
| sft_same_data | on the given solutions of the training problems |
"""

from collections.abc import Callable
from typing import Any

import ml_collections

WARM_START = 'experiments/policies/countdown'
GRPO = {'credit': 'none'}
WINDOWS = {'window_tokens': 30, 'max_boundaries': 4, 'marker': 'opens'}

RECIPES = {
    'grpo': GRPO,
    'dr_grpo': {'normalise': 'none', 'aggregation': 'constant'},
    'rloo': {'baseline': 'leave_one_out', 'normalise': 'none'},
    'dapo': {
        'clip_high': 0.28, 'aggregation': 'token', 'dynamic_sampling': 2, 'mask_truncated': True,
    },
    'gspo': {'ratio': 'sequence', 'clip_low': 3e-4, 'clip_high': 4e-4, 'updates_per_step': 2},
    'length_penalty': {'length_penalty': 'kimi'},
    'length_penalty_arora': {'length_penalty': 'arora'},
    'pass_at_k': {'aim': 'pass_at_k', 'baseline': 'leave_one_out'},
    'maj_at_k': {'aim': 'maj_at_k', 'baseline': 'leave_one_out'},
    'mrt': {'credit': 'episode'},
    'mrt_to_go': {'credit': 'to_go'},
    'mrt_scalar': {'credit': 'scalar'},
    'mrt_opens': {'credit': 'episode', 'marker': 'opens'},
    'mrt_one_branch': {'credit': 'episode', 'branches': 1},
    # Progress for those that think on, less what stopping at the prefix is worth: alpha counts, and
    # a hard prefix, where nobody is right, teaches nothing (MRT section 3.2, variants a and c).
    'mrt_rl': {'credit': 'prefix', 'baseline': 'termination', 'normalise': 'none'},
    'mrt_rl_published': {'credit': 'prefix', 'bonus': 'all', 'normalise': 'together'},
    'mrt_rl_mixed': {
        'credit': 'prefix', 'bonus': 'all', 'normalise': 'together', 'prefixes_per_group': 2,
    },
    'segments': {'credit': 'episode', **WINDOWS},
    'brpo': {'credit': 'anytime', 'outcome_weight': 0.0, **WINDOWS},
}
# Those of the comparison of credits; experiments/results/countdown_compare.md has its table.
COMPARED = ('grpo', 'length_penalty', 'mrt_scalar', 'mrt', 'mrt_to_go', 'mrt_one_branch')
# Those of the comparison of methods.
METHODS = (
    'grpo', 'length_penalty', 'sft_same_data', 'star', 'mrt_star', 'mrt_rl', 'mrt', 'mrt_to_go',
    'mrt_scalar',
)


def get_config(variant: str = 'demo') -> ml_collections.ConfigDict:
    """The config of a variant; the module's docstring lists them."""
    if variant in RECIPES:
        return reinforcement(**RECIPES[variant])
    if variant in IMITATIONS:
        return imitation(variant)
    if variant == 'demo':
        return comparison(arms=('grpo', 'mrt'), seeds=(0,), equal_tokens=False)
    if variant == 'compare':
        return comparison(arms=COMPARED, seeds=(0, 1, 2), equal_tokens=True)
    if variant == 'methods':
        return comparison(arms=METHODS, seeds=(0, 1, 2), equal_tokens=True)
    if variant.startswith('arms='):
        return _chosen(variant.removeprefix('arms=').split('+'))
    if variant == 'sft':
        return warm_start()
    known = ', '.join(['demo', 'compare', 'methods', *RECIPES, *IMITATIONS, 'sft'])
    raise ValueError(f'configs/countdown.py has no variant {variant!r}; it has {known}')


def _chosen(arms: list[str]) -> ml_collections.ConfigDict:
    """A comparison of the variants that are named."""
    unknown = [arm for arm in arms if arm not in {*RECIPES, *IMITATIONS}]
    if unknown:
        known = ', '.join([*RECIPES, *IMITATIONS])
        raise ValueError(f'configs/countdown.py has no arm {unknown[0]!r}; it has {known}')
    config = comparison(arms=tuple(arms), seeds=(0, 1, 2), equal_tokens=False)
    config.reference_arm = arms[0]
    return config


def _shared() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0  # of parameters, problems, rollouts and evaluation
    config.task = 'countdown'  # problems, episode rule and checker: the README lists the tasks
    config.termination = ''  # what the meta-prover puts behind a cut thought; '': the task's
    config.conclusion = ''  # what it puts behind a complete thought; '': the task's
    # Devices along the axes of the mesh: data and fsdp share out rows, fsdp parameters too, tensor
    # heads and widths, sequence the tokens of a row in updates and rows while they are sampled. One
    # may be -1, the devices that are left.
    config.mesh = ml_collections.ConfigDict(dict(data=1, fsdp=1, tensor=1, sequence=1))
    # Of activations and matrix products: float32 | bfloat16. On one CPU also bfloat16_products,
    # which rounds nothing but what is multiplied with parameters: faster where the CPU multiplies
    # bfloat16 (AMX, AVX512-BF16).
    config.compute_dtype = 'float32'
    # Kernel of whole rows: auto (by backend) | measured | plain | splash | cudnn. measured times
    # those that fit, at the start, at the size of a microbatch; the run then keeps to the fastest.
    config.attention = 'auto'
    config.param_dtype = 'float32'  # of the parameters; bfloat16 keeps a float32 master beside them
    config.lora_rank = 0  # of adapters that train while the rest is frozen; 0: everything trains
    config.save_dtype = 'float32'  # of the final policy's files
    config.remat = 'none'  # activations kept for the backward pass: none | dots | full
    config.checkpoint_every = 10  # steps
    config.keep_checkpoints = 2  # the newest ones; older ones are deleted, but for the next two
    config.keep_every = 0  # checkpoints of every so many steps are kept for good; 0: none
    config.keep_best = ''  # and the best, such as 'max validation_reward' or 'min loss'; '': none
    config.max_skipped_in_a_row = 5  # non-finite steps before the run stops with exit code 3
    # Nats a token of the metric kl above which the run stops with exit code 3, before checkpoints
    # of a broken policy push out good ones; recipes here stay below 1. One token whose probability
    # has fallen to nothing can carry a mean, so set it far above what is usual. 0: no bound.
    config.max_kl = 100.0

    # Traces.
    config.max_thinking_tokens = 120  # of a thought, which is then ended by force
    config.max_answer_tokens = 10  # of an answer, the meta-prover's too
    # How tokens are drawn, in training and in evaluation; top_k=0, top_p=1 and min_p=0 are off, see
    # mrt_jax/sampling/processors.py; temperature=0 takes the most likely token. Updates, penalties
    # and entropy are of the policy at that temperature; what the others leave out biases them.
    config.sampling = ml_collections.ConfigDict(
        dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
    )

    # Evaluation of the final policy, on the first num_problems of the test split: num_samples
    # traces each, batch_rows of them decoded together, branches answers of the meta-prover at each
    # of max_boundaries boundaries, and regret at each of budgets, tokens, the last of them full.
    config.evaluation = ml_collections.ConfigDict(
        dict(num_problems=512, num_samples=2, branches=4, max_boundaries=12, batch_rows=128,
             budgets=(30, 50, 70, 90, 110, 130, 150))
    )
    return config


def reinforcement(**changes: object) -> ml_collections.ConfigDict:
    """Reinforcement learning from the shipped warm start."""
    config = _shared()
    config.objective = 'rl'  # kind of training: rl | sft, or compare for several of rl
    config.policy = WARM_START  # to begin from
    config.num_steps = 40  # batches of rollouts
    config.num_sampled_tokens = 0  # goes on past num_steps until as many are sampled
    config.evaluate_every = 0  # steps between evaluations on the validation split; 0: never
    # Steps between histograms and traces to read in TensorBoard; 0: never. STaR shows them with
    # every iteration unless it is 0.
    config.show_every = 10

    # Rollouts.
    config.prompts_per_step = 16  # problems
    config.group_size = 8  # G, rollouts of each prompt, which they attend to in one cache
    config.max_prompt_tokens = 20  # longer prompts are refused
    # Of keys and values while training samples: compute (as compute_dtype) | int8, a head of a
    # token by a step of its own; on TPU and GPU half the memory of bfloat16 and half of what
    # decoding reads of it. Evaluations keep compute.
    config.cache_dtype = 'compute'
    # Rows decoded together, each with its prompt's cache for itself; others wait for one to end.
    config.rollout_slots = 0  # 0: all of them
    # Steps of decoding after which responses that have ended are judged, while the others go on:
    # worth it where judging takes long, as answers in mathematics do. 0: all when all have ended.
    config.judge_every = 0

    # Meta-prover.
    config.prover = 'answers'  # what a prefix is worth: its answers' success | attempts: their own
    config.max_boundaries = 8  # E, ends of episodes of a trace that are told apart
    config.branches = 4  # M, answers at each boundary
    # Most answers decoded together on each device, which bounds memory; those of a boundary at
    # least.
    config.prover_rows = 256
    # 2: half of M everywhere, the rest where neighbours are in doubt; without common_draws.
    config.prover_rounds = 1
    # Against the noise of J; experiments/results/variance.md has what each is worth.
    config.common_draws = True  # the boundaries of a trace share their random numbers
    config.shrinkage = 'none'  # of J towards other boundaries: none | trace | group | walk
    config.weigh_by_stderr = False  # progress counts the less the less surely J is known
    # Weight of a term that trains its answers, each measured by the others at its boundary, beside
    # that of the traces; 0: J is only measured. See mrt_jax/methods/prover_training.py.
    config.train_prover = 0.0
    config.prover_sequences = 128  # most answers that a step trains on, at a random choice

    # Credit: outcome_weight x outcome + alpha x progress, less a baseline, by a normaliser.
    config.credit = 'none'  # progress: none | scalar | episode | to_go | anytime | prefix
    config.alpha = 1.0  # weight of progress
    config.outcome_weight = 1.0  # weight of the outcome; 0 leaves progress alone
    config.aim = 'own'  # what a trace is paid for: own (its answer) | pass_at_k | maj_at_k
    config.aim_k = 4  # k of the aim
    config.baseline = 'group'  # what is taken off: group | leave_one_out | termination
    config.normalise = 'outcome'  # divides by deviations: outcome | together | separate | none
    config.length_penalty = 'none'  # none | kimi | arora
    config.length_penalty_weight = 0.5  # of the penalty beside the reward, 0 or 1
    config.marker = 'closes'  # has the credit of the episode that it opens, or closes
    config.window_tokens = 0  # episodes of so many tokens; 0: by the task's rule

    # MRT (RL), credit='prefix': groups go on from thoughts that are cut at a random boundary; half
    # of a group thinks on, the other half stops and answers.
    config.refresh_prefixes_every = 10  # steps from one pool of prefixes to the next
    config.prefixes_per_group = 1  # prefixes that a group goes on from, in equal shares
    config.bonus = 'continue'  # which rollouts get progress: continue | all

    # Groups that teach nothing, and traces that never came to an end (DAPO).
    config.dynamic_sampling = 0  # further batches that replace groups of equal rewards, at most
    # Leaves rollouts that their budget has cut out of the loss, answers of the meta-prover too.
    config.mask_truncated = False

    # Objective and optimiser.
    config.ratio = 'token'  # policy / sampling policy, of each: token | sequence
    config.clip_low = 0.2  # how far the ratio may fall
    config.clip_high = 0.2  # how far it may rise
    config.kl_coef = 0.0  # k3 penalty towards the policy folder that the run began with
    config.entropy_coef = 0.0  # weight of the entropy bonus
    config.aggregation = 'sequence'  # mean over: token | sequence | constant
    # Weights trainer / sampler of the tokens, for samplers that round otherwise than the trainer:
    # level none | token | sequence, those above `most` bound by truncate | mask.
    config.mismatch = ml_collections.ConfigDict(dict(level='none', bound='truncate', most=2.0))
    config.updates_per_step = 1  # passes over each batch of rollouts
    config.row_tokens = 240  # of a row of an update, which traces are packed into
    # A row holds a prompt once for all rollouts of it that lie there. TPU's kernel of attention,
    # splash, cannot show it to several.
    config.share_prompts = False
    # Updates that a batch's rollouts lie behind the policy: 0 | 1, they are sampled one update
    # ahead, while the host judges the batch before. mismatch.level then corrects staleness, too.
    config.staleness = 0
    config.microbatch_rows = 8  # rows whose activations are held at a time
    # AdamW with warm-up and schedule, see mrt_jax/training/optimizer.py.
    config.optimizer = ml_collections.ConfigDict(
        dict(learning_rate=1.5e-4, schedule='constant', warmup_steps=2, weight_decay=0.0,
             b1=0.9, b2=0.98, clip_norm=1.0)
    )

    config.update(changes)
    return config


def comparison(
    arms: tuple[str, ...], seeds: tuple[int, ...], equal_tokens: bool
) -> ml_collections.ConfigDict:
    """Trains every arm with every seed and evaluates all of them beside the warm start."""
    config = reinforcement()
    config.objective = 'compare'
    # Keys that each arm changes, by its name.
    config.arms = ml_collections.ConfigDict(
        {name: IMITATIONS[name]() if name in IMITATIONS else dict(RECIPES[name]) for name in arms}
    )
    config.reference_arm = 'grpo'  # that the others are compared with, besides the warm start
    config.seeds = seeds  # every arm is trained with each
    # Arms that have sampled less than 0.9 of the tokens of another train on to as many, and count
    # twice.
    config.equal_tokens = equal_tokens
    return config


def warm_start() -> ml_collections.ConfigDict:
    """Supervised fine-tuning of a fresh policy on unsteady search traces."""
    config = _shared()
    config.objective = 'sft'
    config.policy = ''  # train the model below from scratch
    # Its shape: width of the residual stream, num_layers, num_heads of queries and num_kv_heads of
    # keys, of head_width each, ffn_width inside a block, and max_positions, its context in tokens.
    config.model = ml_collections.ConfigDict(
        dict(width=128, num_layers=5, num_heads=2, num_kv_heads=1, head_width=64, ffn_width=384,
             max_positions=512)
    )
    config.parent = ''  # a policy of that shape to begin from, its tokens matched by their text
    config.num_steps = 1500
    config.checkpoint_every = 100
    config.save_dtype = 'bfloat16'  # of the policy folder
    config.rows_per_step = 48  # rows of demonstrations, several packed in each
    config.row_tokens = 144  # of a row, demonstrations that are longer are refused
    config.answer_weight = 4.0  # weight of an answer's token beside one of the thought's
    config.confidence_n = 1  # limits confidence, see `fine_tuning`
    config.microbatch_rows = 12
    config.demonstrations_file = ''  # kept.jsonl of a run; '': the task writes demonstrations
    # Rates at which the demonstrated searches go wrong, see mrt_jax/data/search_traces.py.
    config.demonstrations = ml_collections.ConfigDict(
        dict(solve=0.12, repeat=0.15, stop=0.08, go_on=0.6, cut=0.1, guess=0.1, max_attempts=8,
             max_value=60)
    )
    # AdamW with warm-up and schedule, see mrt_jax/training/optimizer.py.
    config.optimizer = ml_collections.ConfigDict(
        dict(learning_rate=3e-3, schedule='cosine', warmup_steps=100, weight_decay=0.05,
             b1=0.9, b2=0.98, clip_norm=1.0)
    )
    return config


def fine_tuning() -> dict[str, Any]:
    """Keys of supervised fine-tuning that reinforcement learning, which arms start from, lacks."""
    return dict(
        rows_per_step=16,  # of row_tokens, which demonstrations are packed into
        answer_weight=1.0,  # weight of an answer's token beside one of the thought's
        # N of the loss -log(1 - (1 - p)^N), p the probability of a whole demonstration: less is
        # learnt of what N samples would find anyway. 1: cross entropy.
        confidence_n=1,
        optimizer=dict(learning_rate=3e-4),
    )


def self_taught(**changes: object) -> dict[str, Any]:
    """MRT (STaR), or plain STaR. Samples as many traces an update as reinforcement learning does.

    An iteration is sampled in batches of prompts_per_step problems, group_size traces of each.
    """
    return fine_tuning() | dict(
        objective='star',
        problems_per_iteration=160,  # problems_per_iteration x group_size traces are sampled
        steps_per_iteration=10,  # updates on what an iteration has kept; num_steps are all updates
        selection='progress',  # what is kept: progress, by J | correct, whatever is right
        cut='prefix',  # thoughts end: prefix, at the earliest boundary of highest J | full, nowhere
        # Most traces kept of a problem, the best; 0: all. More would favour problems that are easy.
        keep_per_problem=1,
        # Policy that an iteration trains: last, the one that sampled it, so that all updates count
        # as those of reinforcement learning do | start, config.policy anew, as in STaR.
        fine_tune_from='last',
    ) | changes


def same_data() -> dict[str, Any]:
    """Supervised fine-tuning on the problems that the others train on."""
    return fine_tuning() | dict(
        objective='sft',
        demonstrations_file='',  # kept.jsonl of another run; '': the task's demonstrations
        # Given solutions, in one attempt: nothing goes wrong, see mrt_jax/data/search_traces.py.
        demonstrations=dict(solve=1.0, repeat=0.0, stop=0.0, go_on=0.0, cut=0.0, guess=0.0),
    )


def imitation(variant: str) -> ml_collections.ConfigDict:
    """A single run of an arm of `IMITATIONS`, with the keys of its kind."""
    config = reinforcement(**IMITATIONS[variant]())
    if config.objective == 'sft':
        # None: fine-tuning begins from config.policy.
        config.model, config.parent = ml_collections.ConfigDict(), ''
        for key in {*config.keys()} - {*warm_start().keys()}:
            del config[key]
    return config


# Arms like those of RECIPES.
IMITATIONS: dict[str, Callable[[], dict[str, Any]]] = {
    'star': lambda: self_taught(selection='correct', cut='full', keep_per_problem=0),
    'mrt_star': self_taught,
    'mrt_star_full': lambda: self_taught(cut='full'),
    'sft_same_data': same_data,
}
