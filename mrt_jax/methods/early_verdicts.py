"""Verdicts on responses that have ended, while others of their batch are still decoded."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mrt_jax.methods.experience import Reader
from mrt_jax.sampling.sampler import Seen
from mrt_jax.sharding.host_data import own_share
from mrt_jax.tasks.task import Verdict


class EarlyVerdicts:
    """Judges responses in threads of its own as soon as they have been seen to have ended.

    Of several processes each judges those that `judge_traces` leaves to it. The threads run no JAX.

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
        self.coming: dict[int, Future[Verdict]] = {}
        self._reader, self._answers, self._prefixes = reader, answers, prefixes
        self._threads = ThreadPoolExecutor(max(1, reader.task.checks_at_once), 'judge')

    def watch(self, seen: Seen) -> None:
        """Has the responses judged that have ended since the last call."""
        for row in own_share(len(self._answers)):
            if row in self.coming or seen.live_B[row]:
                continue
            tokens = seen.tokens_BT[row, : seen.lengths_B[row]].tolist()
            prefix = self._prefixes[row] if self._prefixes else ()
            self.coming[row] = self._threads.submit(
                self._reader.judge, tokens, self._answers[row], prefix
            )
        if not seen.live_B.any():
            self._threads.shutdown(wait=False)
