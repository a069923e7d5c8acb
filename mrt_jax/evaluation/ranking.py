"""Settings of a sweep in the order of a measure, with intervals over problems and seeds."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from mrt_jax.evaluation.comparison import Contestant
from mrt_jax.evaluation.number_text import HEADLINES
from mrt_jax.evaluation.seeds import SeedInterval, difference, estimate, gather

BETTER = {measure.path[0]: measure.better for measure in HEADLINES}


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A setting with its numbers.

    Attributes:
        name: of the setting.
        contestant: its traces and curves, a seed each.
        estimates: by measure, those of `BETTER`.
        behind: the measure ranked by, less that of the first, paired by problem; None for the first
            and where the two were evaluated on other problems.
    """

    name: str
    contestant: Contestant
    estimates: Mapping[str, SeedInterval]
    behind: SeedInterval | None


def rank(results: Mapping[str, Contestant], budgets: Sequence[int], by: str) -> list[Ranked]:
    """Orders settings, the best first; equal ones stay in the order given.

    Args:
        results: settings by name.
        budgets: token budgets; regret is taken at the largest.
        by: a key of `BETTER`.

    Raises:
        ValueError: the seeds of a setting were evaluated on different problems.
    """
    statistics = {name: gather(one.seeds, budgets) for name, one in results.items()}
    paths = {
        name: (name, str(max(budgets))) if name == 'normalized_regret' else (name,)
        for name in BETTER
    }
    estimates = {
        name: {measure: estimate(own, path) for measure, path in paths.items()}
        for name, own in statistics.items()
    }
    order = sorted(results, key=lambda name: _badness(estimates[name][by].mean, by))

    def behind(name: str) -> SeedInterval | None:
        first = order[0]
        if name == first or _problems(results[name]) != _problems(results[first]):
            return None
        return difference(statistics[name], statistics[first], paths[by])

    return [Ranked(name, results[name], estimates[name], behind(name)) for name in order]


def _badness(value: float, by: str) -> float:
    """Grows as a measure gets worse; numbers that do not exist are the worst."""
    return math.inf if math.isnan(value) else -BETTER[by] * value


def _problems(contestant: Contestant) -> list[str]:
    return list(dict.fromkeys(record.problem for record in contestant.seeds[0]))
