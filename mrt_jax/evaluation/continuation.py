"""Thoughts that go on beyond their end, and the meta-prover's answers behind them.

What extrapolation by budget forcing (MRT section 6.7) and the linearised search (section 6.6) have
in common: a context of token ids, a cue that opens an episode, what the policy writes behind it,
and M answers in which its thought is ended by force.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from mrt_jax.errors import InputError
from mrt_jax.kernels.episodes import find_marker, whole_length
from mrt_jax.kernels.matcher import StringMatcher, build_matcher
from mrt_jax.methods.experience import Reader, reader_of
from mrt_jax.models.precision import precision_on
from mrt_jax.models.transformer import Transformer
from mrt_jax.policies.complete import Completion, Request, complete
from mrt_jax.policies.policy import Policy
from mrt_jax.sampling.phases import Terminals
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.recorded import RecordedTrace, prove_recorded
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.tasks.task import Problem, Task

_ROUND_DRAWS, _ANSWER_DRAWS = 2, 3  # Evaluation's own rollouts and answers have 0 and 1.
_LAST_TOKENS = 8  # of a context in which the newlines at its end are counted


@dataclasses.dataclass(frozen=True)
class Context:
    """What a policy has before it when it goes on, or answers.

    Attributes:
        problem: that it thinks about.
        sample: number of the trace among those of its problem.
        prompt: token ids of the prompt.
        thought: token ids of the thought, or of the part of it that the policy sees, without the
            marker that ends one.
        complete: the policy has ended the thought itself, so that the meta-prover concludes it;
            else it cuts it.
    """

    problem: Problem
    sample: int
    prompt: tuple[int, ...]
    thought: tuple[int, ...]
    complete: bool


@dataclasses.dataclass(frozen=True)
class Piece:
    """What a policy has written from a cue.

    Attributes:
        tokens: token ids, the cue's first; without what ended it. Of a piece that did not end its
            thought, those before its last paragraph or attempt; none if it has no whole one.
        sampled: tokens that were sampled, those that were dropped included.
        complete: the policy has ended the thought.
        opening: token ids with which the policy has opened the next episode, where that has ended
            the piece; they are not in `tokens`.
    """

    tokens: tuple[int, ...]
    sampled: int
    complete: bool
    opening: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class ForcedAnswer:
    """One answer of the meta-prover.

    Attributes:
        tokens: that were sampled.
        extracted: the answer found in them, or None.
        correct: whether it is right.
    """

    tokens: int
    extracted: str | None
    correct: bool


@dataclasses.dataclass(frozen=True)
class Continuer:
    """A policy with what it takes to go on from contexts.

    All draws follow from `seed`, the problem's id, the sample, the round and, for answers, the
    branch. So they depend neither on the contexts around one nor on `batch_size`, but as far as the
    rounding of a matrix product does, and policies share their random numbers.

    Attributes:
        policy: its parameters lie on the devices of `mesh`.
        reader: the task in its tokens.
        model: its network.
        mesh: devices.
        sampling: how tokens are drawn.
        branches: M, answers behind each context.
        max_answer_tokens: most tokens sampled in an answer.
        seed: of all draws.
        batch_size: rows decoded together.
    """

    policy: Policy
    reader: Reader
    model: Transformer
    mesh: jax.sharding.Mesh
    sampling: SamplingConfig
    branches: int
    max_answer_tokens: int
    seed: int
    batch_size: int

    @property
    def longest_text(self) -> int:
        """Tokens of the longer of the texts that end a thought."""
        cut, complete = self.reader.terminals.termination_tokens, self.reader.conclusion_tokens
        return max(len(cut), len(complete))

    def check_room(self, tokens: int, advice: str) -> None:
        """Makes sure that contexts of so many tokens can be answered.

        Raises:
            InputError: the policy's positions do not suffice; ends with `advice`.
        """
        needed = tokens + self.longest_text + self.max_answer_tokens
        if needed > (limit := self.policy.config.max_positions):
            raise InputError(
                f'contexts of up to {tokens} tokens with their answers take {needed} positions, '
                f'and the policy has {limit}: {advice}'
            )

    def stop_matcher(self, *, at_openings: bool) -> StringMatcher | None:
        """Automaton of the texts that end a piece.

        Args:
            at_openings: whether a further episode's opening does, beside the end of the thought.
        """
        task = self.reader.task
        texts = [*([task.think_end] if task.think_end else []), *task.stop]
        texts += task.rule.openings if at_openings else ()
        if not texts:
            return None
        token_bytes = self.reader.tokenizer.token_bytes
        return build_matcher(texts, token_bytes, self.policy.config.vocab_size)

    def go_on(
        self,
        contexts: Sequence[Context],
        cues: Sequence[tuple[int, ...]],
        *,
        turn: int,
        max_new_tokens: int,
        stop: StringMatcher | None,
    ) -> list[Piece]:
        """Lets the policy write from a cue behind each context.

        Args:
            contexts: each with a prompt or a thought.
            cues: token ids behind each to write from, see `cue_tokens`.
            turn: number of the round.
            max_new_tokens: most tokens sampled.
            stop: see `stop_matcher`.
        """
        requests = [
            Request(
                (*context.prompt, *context.thought, *text),
                identity=(_ROUND_DRAWS, turn, *_identity(context)),
            )
            for context, text in zip(contexts, cues, strict=True)
        ]
        pieces: dict[int, Piece] = {}
        for index, completion in complete(
            self.policy,
            self.model,
            requests,
            max_new_tokens=max_new_tokens,
            sampling=self.sampling,
            terminals=self._terminals(stop),
            seed=self.seed,
            mesh=self.mesh,
            batch_size=self.batch_size,
        ):
            pieces[index] = self.read_piece(cues[index], completion)
        return [pieces[index] for index in range(len(contexts))]

    def answer(
        self, contexts: Sequence[Context], *, turn: int, plain: bool = False
    ) -> list[list[ForcedAnswer]]:
        """M answers of the meta-prover behind each context.

        Args:
            contexts: each with a prompt or a thought.
            turn: number of the round.
            plain: whether the policy just goes on and may or may not come to an answer, as in the
                paper's extrapolation study; else its thought is ended by force.
        """
        texts = [() if plain else self.ending(context) for context in contexts]
        traces = [
            _recorded(context, text, (_ANSWER_DRAWS, turn, *_identity(context)))
            for context, text in zip(contexts, texts, strict=True)
        ]
        answers: dict[int, list[ForcedAnswer]] = {}
        for index, (branches,) in prove_recorded(
            self.model,
            self.policy.params,
            traces,
            branches=self.branches,
            max_answer_tokens=self.max_answer_tokens,
            sampling=self.sampling,
            terminals=self._terminals(self.reader.terminals.stop),
            seed=self.seed,
            mesh=self.mesh,
            batch_size=self.batch_size,
        ):
            forced = len(traces[index].terminations[0])
            sampled = [branch.tokens[forced:] for branch in branches]
            answers[index] = self._judge(contexts[index], texts[index], sampled)
        return [answers[index] for index in range(len(contexts))]

    def ending(self, context: Context) -> tuple[int, ...]:
        """Text that the meta-prover puts behind a context."""
        if context.complete:
            return self.reader.conclusion_tokens
        return self.reader.terminals.termination_tokens

    def cue_tokens(self, context: Context, cue: str) -> tuple[int, ...]:
        """Token ids of a cue, without newlines that the context ends in already."""
        last = (*context.prompt, *context.thought)[-_LAST_TOKENS:]
        end = self.reader.tokenizer.decode(last)
        there = len(end) - len(end.rstrip('\n'))
        words = cue.lstrip('\n')
        newlines = max(len(cue) - len(words) - there, 0)
        return tuple(self.reader.tokenizer.encode('\n' * newlines + words))

    def _terminals(self, stop: StringMatcher | None) -> Terminals:
        return Terminals(stop=stop, eos_ids=self.policy.eos_ids, pad_id=self.policy.pad_id)

    def read_piece(self, cue: tuple[int, ...], completion: Completion) -> Piece:
        """Drops what ended a piece: the end of its thought, or the part that was not finished."""
        task, token_bytes = self.reader.task, self.reader.token_bytes
        sampled = completion.tokens
        if completion.ended and sampled[-1] in self.policy.eos_ids:
            return Piece((*cue, *sampled[:-1]), len(sampled), complete=True)
        tokens_1T, length_1 = np.asarray(sampled, np.int32)[None], np.array([len(sampled)])
        end = int(find_marker(tokens_1T, length_1, token_bytes, task.think_end)[0])
        said = self.reader.tokenizer.decode(sampled) if task.stop else ''
        if end < len(sampled) or any(text in said for text in task.stop):
            return Piece((*cue, *sampled[:end]), len(sampled), complete=True)
        tokens_1T = np.asarray((*cue, *sampled), np.int32)[None]
        length_1 = np.array([tokens_1T.shape[1]])
        whole = int(whole_length(tokens_1T, length_1, token_bytes, task.rule)[0])
        written = (*cue, *sampled)
        return Piece(
            written[:whole] if whole > len(cue) else (),
            len(sampled),
            complete=False,
            opening=written[whole:] if completion.ended else (),
        )

    def _judge(
        self, context: Context, text: tuple[int, ...], answers: Sequence[tuple[int, ...]]
    ) -> list[ForcedAnswer]:
        """Judges answers behind a context, equal ones once."""
        verdicts = {
            tokens: self.reader.judge((*context.thought, *text, *tokens), context.problem.answer)
            for tokens in dict.fromkeys(answers)
        }
        return [
            ForcedAnswer(len(tokens), verdicts[tokens].extracted, verdicts[tokens].correct)
            for tokens in answers
        ]


def make_continuer(
    policy: Policy,
    task: Task,
    *,
    sampling: SamplingConfig,
    branches: int,
    max_answer_tokens: int,
    seed: int = 0,
    batch_size: int = 64,
    mesh: jax.sharding.Mesh | None = None,
    dtype: str = 'float32',
) -> Continuer:
    """Makes a policy ready to go on; see `Continuer`.

    Raises:
        InputError: the policy has no tokenizer or no chat template; see `precision_on`.
    """
    mesh = make_mesh() if mesh is None else mesh
    return Continuer(
        policy=policy,
        reader=reader_of(policy, task),
        model=Transformer(policy.config, **precision_on(dtype, mesh)._asdict()),
        mesh=mesh,
        sampling=sampling,
        branches=branches,
        max_answer_tokens=max_answer_tokens,
        seed=seed,
        batch_size=batch_size,
    )


def _identity(context: Context) -> tuple[int, ...]:
    return (context.sample, *context.problem.id.encode())


def _recorded(
    context: Context, text: tuple[int, ...], identity: tuple[int, ...]
) -> RecordedTrace:
    """A context whose end is to be answered; without a text its own last token is forced."""
    tokens = (*context.prompt, *context.thought)
    if not text:
        tokens, text = tokens[:-1], tokens[-1:]
    prompt, thought = tokens[: len(context.prompt)], tokens[len(context.prompt) :]
    return RecordedTrace(prompt, thought, (len(thought),), (text,), identity=identity)
