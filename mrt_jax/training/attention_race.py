"""Kernels of attention timed against each other, alone, at the size of an update's microbatch."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from mrt_jax.models.attention import visible
from mrt_jax.models.attention_kernels import (
    attend_plainly,
    attend_to_self,
    fitting_kernels,
    takes,
    within_segments,
)
from mrt_jax.models.config import ModelConfig
from mrt_jax.models.transformer import Transformer
from mrt_jax.sharding.host_data import from_every_process
from mrt_jax.sharding.rules import partition_spec, use_mesh
from mrt_jax.training.compile_clock import CompileClock
from mrt_jax.training.resources import SMALLER_UPDATE, fitting_in_memory

RUNS = 5  # That are timed; the best counts.
SEGMENTS = 4  # Of a row. No kernel's time depends on where they end.

Result = TypeVar('Result')


@dataclasses.dataclass(frozen=True)
class Attention:
    """What the layers of a network attend to in a microbatch.

    Attributes:
        rows, tokens: of the microbatch.
        heads, kv_heads, head_width: of a layer.
        layers: numbers of layers by their window, None for all tokens.
        scale, cap: see `attend_to_self`.
        dtype: of queries, keys and values.
        parents: whether segments see a parent, as where traces share a prompt.
    """

    rows: int
    tokens: int
    heads: int
    kv_heads: int
    head_width: int
    layers: tuple[tuple[int | None, int], ...]
    scale: float
    cap: float | None
    dtype: str
    parents: bool


@dataclasses.dataclass(frozen=True)
class Race:
    """How a race has ended.

    Attributes:
        seconds: of attention in all layers, forwards and back, by kernel, of those that ran.
        failed: why the others did not, by kernel.
        compile_seconds: of all programs together.
    """

    seconds: Mapping[str, float]
    failed: Mapping[str, str]
    compile_seconds: float

    @property
    def winner(self) -> str:
        """The fastest kernel; of equal ones the first."""
        return min(self.seconds, key=self.seconds.__getitem__)


class Programs(NamedTuple):
    """Jitted programs of a kernel in a layer, for the mesh in use.

    Attributes:
        draw: () -> operands, which lie on the mesh as in an update: queries q_XHTC, keys k_XKTC and
            values v_XKTC, normal numbers, and what is seen, in the form that the kernel takes.
        attend: operands -> mixed_XHTC and the gradients of queries, keys and values.
    """

    draw: Any
    attend: Any


def attention_of(config: Any, model: Transformer) -> Attention:
    """What the updates of a run attend to.

    Args:
        config: of the run.
        model: its network.
    """
    c = model.config
    are_local = c.local_layers or (c.sliding_window is not None,) * c.num_layers
    local = sum(are_local)
    layers = (c.sliding_window, local), (None, c.num_layers - local)
    return Attention(
        rows=config.microbatch_rows, tokens=config.row_tokens, heads=c.num_heads,
        kv_heads=c.num_kv_heads, head_width=c.head_width,
        layers=tuple((window, number) for window, number in layers if number),
        scale=c.score_scale, cap=c.attention_cap, dtype=model.dtype,
        parents=config.get('share_prompts', False),  # Fine-tuning shares none.
    )


def kernels_in_race(
    platform: str, model_config: ModelConfig, attention: Attention, mesh: Mesh
) -> tuple[str, ...]:
    """The kernels that fit a backend, a policy and its microbatches; 'plain' is the last."""
    fitting = fitting_kernels(
        platform, model_config, dtype=attention.dtype,
        tokens_split=mesh.shape['sequence'] != 1, parents=attention.parents,
    )
    with use_mesh(mesh):
        return tuple(
            kernel for kernel in fitting
            if kernel == 'plain' or takes(kernel, attention.rows, attention.tokens)
        )


def make_programs(
    kernel: str, attention: Attention, window: int | None, mesh: Mesh
) -> Programs:
    """The programs of a kernel in a layer with this window; compiles nothing.

    Rows are split over data and fsdp, heads over tensor, tokens over sequence, so a device has as
    much to do as in an update.
    """

    def lies(*axes: str) -> NamedSharding:
        return NamedSharding(mesh, partition_spec(axes))

    keys = lies('rows', 'kv_heads', 'tokens')
    return Programs(
        jax.jit(
            functools.partial(_draw, kernel, attention, window),
            out_shardings=(lies('rows', 'heads', 'tokens'), keys, keys, lies('rows', 'tokens')),
        ),
        jax.jit(functools.partial(_attend, kernel, attention, window)),
    )


def run_race(
    kernels: Sequence[str],
    attention: Attention,
    mesh: Mesh,
    *,
    clock: Callable[[], float] = time.perf_counter,
    programs: Callable[[str, Attention, int | None, Mesh], Programs] = make_programs,
) -> Race:
    """Compiles kernels and times them, one after another.

    A kernel costs two small programs, or four where windows differ by layer. Several processes do
    this together and see the same race: a kernel that fails in one is out in all, and its time is
    that of the slowest.

    Args:
        kernels: from `kernels_in_race`.
        attention: what is computed.
        mesh: on which.
        clock: seconds.
        programs: `make_programs`.

    Raises:
        ResourceError: memory does not suffice for 'plain'; other errors of 'plain' pass through.
    """
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    with CompileClock() as compiling, use_mesh(mesh):
        for kernel in kernels:
            try:
                own = 0.0
                for window, layers in attention.layers:
                    made = programs(kernel, attention, window, mesh)
                    run = _together(kernel, functools.partial(_compile, made))
                    own += layers * _together(kernel, functools.partial(best_time, run, clock))
                seconds[kernel] = max(from_every_process(own))
            except _FailedError as error:
                failed[kernel] = str(error)
        return Race(seconds, failed, compiling.take())


def best_time(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Seconds that a program takes at best, once it has run."""

    def time_once() -> float:
        started = clock()
        jax.block_until_ready(run())
        return clock() - started

    jax.block_until_ready(run())
    return min(time_once() for _ in range(RUNS))


class _FailedError(Exception):
    """A kernel cannot be compiled, or not run."""


def _together(kernel: str, work: Callable[[], Result]) -> Result:
    """The result of what all processes do, if none of them fails."""
    if kernel == 'plain':
        with fitting_in_memory("attention='plain'", SMALLER_UPDATE):
            return work()
    result, reason = None, ''
    try:
        result = work()
    except Exception as error:  # Kernels and their compilers raise what they like.
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
    for said in from_every_process(reason):
        if said:
            raise _FailedError(said)
    return result


def _compile(made: Programs) -> Callable[[], Any]:
    """What runs the compiled attention, on operands that stay."""
    operands = made.draw()
    return functools.partial(made.attend.lower(*operands).compile(), *operands)


def _draw(
    kernel: str, attention: Attention, window: int | None
) -> tuple[jax.Array, jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """See `Programs.draw`."""
    a = attention
    q_XHTC, k_XKTC, v_XKTC = (
        jax.random.normal(key, (a.rows, heads, a.tokens, a.head_width), a.dtype)
        for key, heads in zip(
            jax.random.split(jax.random.key(0), 3), (a.heads, a.kv_heads, a.kv_heads), strict=True
        )
    )
    columns_XT = jnp.broadcast_to(jnp.arange(a.tokens), (a.rows, a.tokens))
    segments_XT = columns_XT * SEGMENTS // a.tokens
    starts_XT = -(-segments_XT * a.tokens // SEGMENTS)
    positions_XT, parents_XT = columns_XT - starts_XT, None
    if a.parents:  # All go on from the first segment.
        parents_XT = jnp.zeros_like(segments_XT)
        positions_XT += jnp.where(segments_XT > 0, -(-a.tokens // SEGMENTS), 0)
    if kernel == 'plain':
        seen = (
            visible(positions_XT, positions_XT, window=window)
            & within_segments(segments_XT, parents_XT),
        )
    elif parents_XT is None:
        seen = (segments_XT,)
    else:
        seen = segments_XT, parents_XT, positions_XT
    return q_XHTC, k_XKTC, v_XKTC, seen


def _attend(
    kernel: str,
    attention: Attention,
    window: int | None,
    q_XHTC: jax.Array,
    k_XKTC: jax.Array,
    v_XKTC: jax.Array,
    seen: tuple[jax.Array, ...],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """See `Programs.attend`."""
    run = attend_plainly
    if kernel != 'plain':
        run = functools.partial(attend_to_self, kernel, window=window)

    def mix(q_XHTC: jax.Array, k_XKTC: jax.Array, v_XKTC: jax.Array) -> jax.Array:
        return run(q_XHTC, k_XKTC, v_XKTC, *seen, scale=attention.scale, cap=attention.cap)

    mixed_XHTC, pull_back = jax.vjp(mix, q_XHTC, k_XKTC, v_XKTC)
    # Any numbers do for what comes back; the forward pass's result keeps it from being left out.
    return mixed_XHTC, *pull_back(q_XHTC)
