"""Verdicts on responses that have ended, while others of their batch are still decoded."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from mrt_jax.methods.experience import Reader, judge_row
from mrt_jax.sampling.sampler import Seen
from mrt_jax.sharding.host_data import own_share
from mrt_jax.tasks.task import Verdict


class EarlyVerdicts:
    """Judges responses in threads of its own as soon as they have been seen to have ended.

    Of several processes each judges those that `judge_traces` leaves to it. The threads run no JAX.
    Entered while the responses are sampled; if that fails, what has not begun is not judged.

    Args:
        reader: the task in the policy's tokens.
        answers, prefixes: as in `judge_traces`.
    """

    def __init__(
        self,
        reader: Reader,
        answers: Sequence[Any],
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.pending: dict[int, Future[Verdict]] = {}
        self._reader, self._answers, self._prefixes = reader, answers, prefixes
        self._threads = ThreadPoolExecutor(max(1, reader.task.checks_at_once), 'judge')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=kind is not None)

    def watch(self, seen: Seen) -> None:
        """Has the responses judged that have ended since the last call."""
        for row in own_share(len(self._answers)):
            if row in self.pending or seen.live_B[row]:
                continue
            prefix = self._prefixes[row] if self._prefixes else ()
            self.pending[row] = self._threads.submit(
                judge_row, self._reader, seen.tokens_BT[row, : seen.lengths_B[row]],
                self._answers[row], prefix,
            )
