"""Compiles the programs of a step of a config for devices that are not here."""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from mrt_jax.errors import InputError
from mrt_jax.models.attention_kernels import fastest_kernel
from mrt_jax.models.config import ModelConfig
from mrt_jax.models.lora import split
from mrt_jax.models.precision import PRECISIONS, precision_on
from mrt_jax.models.transformer import Transformer, abstract_params, logical_axes
from mrt_jax.planning.topologies import describe_devices
from mrt_jax.planning.work import (
    Work,
    itemsizes_of,
    keys_seen,
    prover_work,
    rollout_work,
    update_work,
)
from mrt_jax.sampling import dispatches, sampler
from mrt_jax.sampling.fork import prove_branches, same_termination
from mrt_jax.sampling.phases import Budget, Terminals
from mrt_jax.sampling.sampler import PromptBatch, response_slots, sample_rollouts, stage_ends
from mrt_jax.sharding.mesh import make_mesh, validate_mesh
from mrt_jax.sharding.rules import (
    RULES,
    SAMPLING_RULES,
    Rules,
    batch_sharding,
    param_shardings,
    use_mesh,
)
from mrt_jax.training.network import check_network, make_network
from mrt_jax.training.objective import UpdateBatch, policy_loss
from mrt_jax.training.rl_setup import (
    optimizer_of,
    read_objective,
    read_sampling,
    rows_of_update,
    sequences_of_update,
)
from mrt_jax.training.state import abstract_state, placed_shapes
from mrt_jax.training.update import make_update

# The task's own text needs a tokenizer, and its length hardly matters.
TERMINATION_TOKENS = 16
PROGRAMS = ('rollouts', 'prover', 'update')


class DoesNotFitError(InputError):
    """The compiler itself found that a program needs more memory than a device has."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
        name: of `PROGRAMS`.
        compiled: the executable; never run.
        resident_bytes: on a device, of what must stay there beside the program's own arguments.
        contents: bytes on a device of 'parameters', with those of the reference, if any, of
            'optimizer' and of 'cache', the rollouts' keys and values, whether they are the
            program's arguments, its results or neither.
        work: the least that all devices together must do.
        other_trips: how often its loops run whose end depends on what is sampled, at most.
        compile_seconds: it took.
    """

    name: str
    compiled: Any
    resident_bytes: int
    contents: dict[str, int]
    work: Work
    other_trips: float
    compile_seconds: float


def topology_mesh(topology: str, axes: dict[str, int]) -> Mesh:
    """The devices of a topology such as 'v5e:4x4' or 'h100:8' as a mesh.

    Raises:
        InputError: see `describe_devices` and `make_mesh`.
    """
    return make_mesh(**axes, devices=describe_devices(topology))


def compile_step(
    config: Any, model_config: ModelConfig, mesh: Mesh, names: Sequence[str] = PROGRAMS
) -> Iterator[Program]:
    """The rollouts, the meta-prover if credit needs it, and the update of one step.

    What is wrong is raised at once; each program is compiled when it is asked for.

    Args:
        config: as for `train_policy`; its policy is not read. Without devices nothing is timed, so
            attention='measured' counts as 'auto'.
        model_config: the policy's.
        mesh: from `topology_mesh`.
        names: programs to compile, of `PROGRAMS`.

    Raises:
        InputError: a program that is not there, or the config or the mesh does not fit the network.
    """
    if unknown := [name for name in names if name not in PROGRAMS]:
        raise InputError(f'--programs={unknown[0]}: a step has {", ".join(PROGRAMS)}')
    check_network(config)
    precision_on(config.compute_dtype, mesh)
    if config.credit == 'prefix':
        raise InputError("credit='prefix' is not planned: its rollouts begin behind prefixes")
    if config.rollout_slots:
        raise InputError(f'rollout_slots={config.rollout_slots} is not planned: set it to 0')
    rows = config.prompts_per_step * config.group_size
    validate_mesh(mesh, model_config, rows=rows, tokens=config.row_tokens, rules=SAMPLING_RULES)
    config = config.copy_and_resolve_references()
    if config.attention in ('auto', 'measured'):
        config.attention = _kernel_of(config, model_config, mesh)
    rows_of_update(config, longest_trace(config))
    return _compile_each(config, make_network(config, model_config), mesh, rows, names)


def _kernel_of(config: Any, model_config: ModelConfig, mesh: Mesh) -> str:
    """The attention kernel of the mesh's devices; that of a TPU for devices here."""
    platform = mesh.devices.flat[0].platform
    return fastest_kernel(
        'tpu' if platform == 'cpu' else platform, model_config,
        dtype=PRECISIONS[config.compute_dtype].dtype, tokens_split=config.mesh.sequence != 1,
    )


def longest_trace(config: Any) -> int:
    """Most tokens of a prompt and its response."""
    budget = Budget(config.max_thinking_tokens, config.max_answer_tokens)
    terminals = Terminals(termination_tokens=(0,) * TERMINATION_TOKENS)
    return config.max_prompt_tokens + response_slots(budget, terminals)


def _compile_each(
    config: Any, model: Transformer, mesh: Mesh, rows: int, names: Sequence[str]
) -> Iterator[Program]:
    has_prover = (
        'prover' in names and config.credit != 'none' and config.prover == 'answers'
    )
    if 'rollouts' in names or has_prover:
        rollouts, caches = _compile_rollouts(config, model, mesh, rows)
        if 'rollouts' in names:
            yield rollouts
        if has_prover:
            yield _compile_prover(config, model, mesh, rows, caches)
    if 'update' in names:
        yield _compile_update(config, model, mesh, rows)


def _compile_rollouts(
    config: Any, model: Transformer, mesh: Mesh, rows: int
) -> tuple[Program, Any]:
    """With the caches that they leave behind, as shapes that lie on the mesh."""
    budget = Budget(config.max_thinking_tokens, config.max_answer_tokens)
    terminals = Terminals(eos_ids=(0,), termination_tokens=(0,) * TERMINATION_TOKENS)
    prompts = PromptBatch(
        jax.ShapeDtypeStruct((rows, config.max_prompt_tokens), jnp.int32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    )
    arguments = (
        placed_params(model, mesh), *_by_row((prompts, _keys(rows)), mesh, SAMPLING_RULES),
        terminals,
    )
    options = dict(
        budget=budget, sampling=read_sampling(config), group_size=config.group_size
    )
    compile_them = _compile_dispatches if config.judge_every else _compile_at_once
    compiled, reads_copy, caches, seconds = compile_them(model, mesh, arguments, options)
    steps = response_slots(budget, terminals)
    work = rollout_work(
        model.config, rows=rows, group=config.group_size, prompt=config.max_prompt_tokens,
        new=steps, itemsizes=itemsizes_of(model), sharing=rows // len(caches[0].positions_BS),
    )
    contents = _contents(config, model, mesh, caches)
    resident = contents['optimizer'] + _reference_bytes(config, model, mesh)
    resident += reads_copy * device_bytes(arguments[0])
    before = caches[-1].positions_BS.shape[1] - steps  # Slots of the prompt in the same cache.
    loops = 1 if config.judge_every else len(stage_ends(before, steps))
    return Program('rollouts', compiled, resident, contents, work, steps / loops, seconds), caches


def _compile_at_once(
    model: Transformer, mesh: Mesh, arguments: Sequence[Any], options: dict[str, Any]
) -> tuple[Any, bool, Any, float]:
    """Rollouts as one program.

    Returns:
        The executable; whether it reads a copy of the parameters in their place; the caches that
        the rollouts leave; and seconds.
    """
    compiled, shapes, seconds = _compile_placed(mesh, sample_rollouts, model, *arguments, **options)
    return compiled, False, shapes.caches, seconds


def _compile_dispatches(
    model: Transformer, mesh: Mesh, arguments: Sequence[Any], options: dict[str, Any]
) -> tuple[Any, bool, Any, float]:
    """The same of rollouts in dispatches: that which holds more, of the first and the last.

    The first reads the prompts, the last has the whole cache. Seconds are of these two.
    """
    budget, sampling, group_size = (options[key] for key in ('budget', 'sampling', 'group_size'))
    first, (given, decode), seconds = _compile_placed(
        mesh, dispatches.begin, sampler, model, *arguments, budget=budget, group_size=group_size
    )
    with use_mesh(mesh, SAMPLING_RULES):
        whole = jax.eval_shape(
            lambda cache: sampler.grow(model, cache, given.before + given.steps), decode.cache
        )
    _, whole, _ = _compile_placed(mesh, dispatches.by_row, whole)
    carry, _ = dispatches.split_caches(decode)
    last, (decode, _), more_seconds = _compile_placed(
        mesh, dispatches.decode_steps, sampler, model, given, carry,
        {'cache': whole}, jax.ShapeDtypeStruct((), jnp.int32), budget=budget, sampling=sampling,
    )
    _, caches, _ = _compile_placed(mesh, dispatches.caches_of, sampler, model, given, decode)
    # The parameters themselves wait beside the copy that the last one reads.
    reads_copy = own_bytes(last) + device_bytes(arguments[0]) > own_bytes(first)
    return (last if reads_copy else first), reads_copy, caches, seconds + more_seconds


def own_bytes(compiled: Any) -> int:
    """Bytes on a device of an executable's arguments, results and all between."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )


def _compile_placed(
    mesh: Mesh, program: Any, *arguments: Any, **options: Any
) -> tuple[Any, Any, float]:
    """The executable, shapes of its results where they lie on the mesh, and seconds."""
    compiled, seconds = _compile(mesh, SAMPLING_RULES, program, *arguments, **options)
    with use_mesh(mesh, SAMPLING_RULES):  # Which rows share a cache depends on it.
        shapes = program.eval_shape(*arguments, **options)
    return compiled, placed_shapes(shapes, compiled.output_shardings), seconds


def _compile_prover(
    config: Any, model: Transformer, mesh: Mesh, rows: int, caches: Any
) -> Program:
    boundaries = config.max_boundaries + 1  # With the empty prefix.
    mask_BE = jax.ShapeDtypeStruct((rows, boundaries), jnp.bool_)
    texts = jax.eval_shape(
        lambda mask_BE: same_termination((0,) * TERMINATION_TOKENS, mask_BE), mask_BE
    )
    lengths_B = jax.ShapeDtypeStruct((rows,), jnp.int32)
    boundaries_BE = jax.ShapeDtypeStruct(mask_BE.shape, jnp.int32)
    by_row = _by_row(
        (lengths_B, boundaries_BE, mask_BE, texts, _keys(rows)), mesh, SAMPLING_RULES
    )
    compiled, seconds = _compile(
        mesh, SAMPLING_RULES, prove_branches, model, placed_params(model, mesh), caches, *by_row,
        Terminals(eos_ids=(0,)), branches=config.branches,
        max_answer_tokens=config.max_answer_tokens, sampling=read_sampling(config),
        tile_rows=config.prover_rows,
    )
    work = prover_work(
        model.config, rows=rows, boundaries=boundaries, branches=config.branches,
        prefix=longest_trace(config), text=TERMINATION_TOKENS,
        answer=config.max_answer_tokens, itemsizes=itemsizes_of(model),
    )
    contents = _contents(config, model, mesh, caches)
    return Program(
        'prover', compiled, contents['optimizer'] + _reference_bytes(config, model, mesh), contents,
        work, config.max_answer_tokens - 1, seconds,
    )


def _compile_update(config: Any, model: Transformer, mesh: Mesh, rows: int) -> Program:
    longest = longest_trace(config)
    update_rows, optimizer = rows_of_update(config, longest), optimizer_of(config, model)
    update = make_update(
        model, optimizer, policy_loss(read_objective(config)), mesh, rows=update_rows,
        microbatch_rows=config.microbatch_rows,
        temperature=read_sampling(config).scored_at,
    )
    shape = update_rows, config.row_tokens
    integers = jax.ShapeDtypeStruct(shape, jnp.int32)
    numbers = jax.ShapeDtypeStruct(shape, jnp.float32)
    batch = UpdateBatch(
        integers, integers, numbers, numbers, numbers, integers,
        parents_BT=integers if config.share_prompts else None,
        reference_logprobs_BT=numbers if config.kl_coef else None,
    )
    state = abstract_state(model, optimizer, mesh)
    frozen = split(placed_params(model, mesh))[1] if model.lora_rank else {}
    compiled, seconds = _compile(mesh, RULES, update, state, frozen, _by_row(batch, mesh, RULES))
    # Answers of the meta-prover that train count as long as traces, and as sharing no prompt.
    sequences = sequences_of_update(config)
    tokens, pairs = sequences * longest, sequences * keys_seen(model.config, longest)
    if config.share_prompts:
        common = config.max_prompt_tokens - 1
        together = (config.row_tokens - common) // (longest - common)
        spared = rows - config.prompts_per_step * -(-config.group_size // together)
        tokens -= spared * common
        pairs -= spared * keys_seen(model.config, common)
    work = update_work(
        model.config, tokens=tokens, pairs=pairs,
        param_itemsize=jnp.dtype(model.param_dtype).itemsize, state_bytes=_global_bytes(state),
        frozen=model.lora_rank > 0,
    )
    contents = _contents(config, model, mesh, caches=())
    resident = _reference_bytes(config, model, mesh)
    return Program('update', compiled, resident, contents, work, 1, seconds)


def _compile(
    mesh: Mesh, rules: Rules, program: Any, *arguments: Any, **options: Any
) -> tuple[Any, float]:
    """The executable of a jitted function, and the seconds that it took."""
    started = time.monotonic()
    try:
        with use_mesh(mesh, rules):
            compiled = program.lower(*arguments, **options).compile()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        reason = str(error).partition('\n')[0]
        raise DoesNotFitError(
            f'the compiler finds no room for a program of the step: {reason}. Lower '
            'prompts_per_step, max_thinking_tokens, prover_rows or microbatch_rows, or use more '
            'devices'
        ) from error
    return compiled, time.monotonic() - started


def placed_params(model: Transformer, mesh: Mesh | AbstractMesh) -> Any:
    """Shapes of the parameters where they lie on the mesh."""
    return placed_shapes(abstract_params(model), param_shardings(logical_axes(model), mesh))


def _by_row(tree: Any, mesh: Mesh, rules: Rules) -> Any:
    """Shapes of arrays whose first axis is the rows."""
    return placed_shapes(tree, jax.tree.map(lambda _: batch_sharding(mesh, rules), tree))


def _keys(rows: int) -> jax.ShapeDtypeStruct:
    """Shape of typed PRNG keys, one a row."""
    return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))


def _contents(config: Any, model: Transformer, mesh: Mesh, caches: Any) -> dict[str, int]:
    """Bytes on a device of what outlives a program."""
    state = abstract_state(model, optimizer_of(config, model), mesh)
    parameters = device_bytes(placed_params(model, mesh))
    return {
        'parameters': parameters + _reference_bytes(config, model, mesh),
        'optimizer': device_bytes(state.opt_state),
        'cache': device_bytes(caches),
    }


def _reference_bytes(config: Any, model: Transformer, mesh: Mesh) -> int:
    """Of the parameters that a run began with, if it keeps them for the penalty.

    Beside adapters they are what is frozen.
    """
    keeps = config.kl_coef and not config.lora_rank
    return device_bytes(placed_params(model, mesh)) if keeps else 0


def device_bytes(tree: Any) -> int:
    """Bytes on each device of a tree of shapes that lie on a mesh."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )


def _global_bytes(tree: Any) -> int:
    return sum(leaf.dtype.itemsize * leaf.size for leaf in jax.tree.leaves(tree))

