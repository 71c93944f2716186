"""Guards over the metrics of every step."""

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from preceptor.common.telemetry import counter
from preceptor.learner.guards.measures import completion_metrics
from preceptor.learner.run_configs.guards import GuardPolicy, GuardsConfig
from preceptor.learner.types import Experience

_raised = counter("preceptor_learner_guard_total", "Guards raised, by what is done about it.", ("guard", "policy"))
_SHOWN_STEPS = 20  # a sentence stands in status for so many steps
_MIN_HISTORY = 5  # observations without which there is no spike
ENTROPY, LENGTH, DISTINCT = "policy/entropy_avg", "completions/mean_length", "completions/distinct_share"
_LEVELS = (ENTROPY, LENGTH, DISTINCT)
_SEVERITY: tuple[GuardPolicy, ...] = ("warn", "roll_back", "stop")


@dataclass(frozen=True, slots=True)
class Finding:
    """A guard that was raised. message: a sentence without the step."""

    guard: str
    policy: GuardPolicy
    message: str


class Guards:
    """Looks at each step's metrics and completions; remembers what they were at the start and lately."""

    def __init__(self, config: GuardsConfig) -> None:
        self._config = config
        self._start: dict[str, list[float]] = {name: [] for name in _LEVELS}
        self._recent: dict[str, deque[float]] = {
            name: deque(maxlen=config.spike.window) for name in config.spike.metrics
        }
        self._counts: Counter[str] = Counter()
        self._sentences: dict[str, tuple[int, str]] = {}

    def observe(
        self, step: int, metrics: Mapping[str, float], experiences: Sequence[Experience]
    ) -> tuple[list[Finding], dict[str, float]]:
        """Returns what was raised, and metrics: completions/… and the number of times each guard was raised so far."""
        measured = completion_metrics(experiences, ngram=self._config.repetition.ngram)
        seen = {**metrics, **measured}
        found = [finding for finding in self._check(seen) if finding.policy != "off"]
        self._remember(seen)
        for finding in found:
            self._counts[finding.guard] += 1
            _raised.labels(finding.guard, finding.policy).inc()
            self._sentences[finding.guard] = (step, finding.message)
        return found, {**measured, **{f"guard/{name}": float(count) for name, count in self._counts.items()}}

    def skipped(self, step: int, reasons: Sequence[str]) -> None:
        """Notes an update that was kept from being applied."""
        self._counts["skipped"] += 1
        self._sentences["skipped"] = (step, "; ".join(reasons))

    def sentences(self, step: int) -> tuple[str, ...]:
        """What was raised in the last steps, one sentence per guard, newest first."""
        shown = [item for item in self._sentences.values() if step - item[0] < _SHOWN_STEPS]
        return tuple(f"step {at}: {message}" for at, message in sorted(shown, reverse=True))

    def snapshot(self) -> dict[str, Any]:
        """JSON for a checkpoint."""
        return {
            "start": self._start,
            "recent": {name: list(values) for name, values in self._recent.items()},
            "counts": dict(self._counts),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Takes over what snapshot returned, as far as the config still asks for it."""
        for name in _LEVELS:
            self._start[name] = list(snapshot.get("start", {}).get(name, []))
        for name, values in self._recent.items():
            values.extend(snapshot.get("recent", {}).get(name, []))
        self._counts.update(snapshot.get("counts", {}))

    # -- the guards ----------------------------------------------------------------------------------------------

    def _check(self, seen: Mapping[str, float]) -> Iterator[Finding]:
        yield from self._kl(seen)
        yield from self._spikes(seen)
        yield from self._collapses(seen)

    def _kl(self, seen: Mapping[str, float]) -> Iterator[Finding]:
        guard, kl = self._config.kl, seen.get("objective/kl")
        if kl is not None and kl > guard.limit:
            message = f"KL to the reference is {kl:.4g} nats per rollout, above {guard.limit:g} (guards.kl.limit)"
            yield Finding("kl", guard.policy, message)

    def _spikes(self, seen: Mapping[str, float]) -> Iterator[Finding]:
        guard = self._config.spike
        for name, recent in self._recent.items():
            value = seen.get(name)
            if value is None or len(recent) < _MIN_HISTORY:
                continue
            usual = median(abs(old) for old in recent)
            if usual > 0 and abs(value) > guard.factor * usual:
                message = f"{name} is {value:.4g}, over {guard.factor:g} times its median {usual:.4g} (guards.spike)"
                yield Finding("spike", guard.policy, message)

    def _collapses(self, seen: Mapping[str, float]) -> Iterator[Finding]:
        config = self._config
        repeated, limit = seen["completions/repeated_ngrams"], config.repetition.limit
        if repeated > limit:
            message = f"{repeated:.0%} of the completions' {config.repetition.ngram}-grams repeat, above {limit:.0%}"
            yield Finding("repetition", config.repetition.policy, f"{message} (guards.repetition.limit)")
        yield from self._fallen("entropy", ENTROPY, seen, config.entropy.share, config.entropy.policy)
        yield from self._fallen("length", LENGTH, seen, config.length.low, config.length.policy)
        yield from self._fallen("diversity", DISTINCT, seen, config.diversity.share, config.diversity.policy)
        start = self._level(LENGTH)
        if start is not None and seen[LENGTH] > config.length.high * start:
            message = f"{LENGTH} is {seen[LENGTH]:.4g}, over {config.length.high:g} times the start's {start:.4g}"
            yield Finding("length", config.length.policy, f"{message} (guards.length.high)")

    def _fallen(
        self, guard: str, name: str, seen: Mapping[str, float], share: float, policy: GuardPolicy
    ) -> Iterator[Finding]:
        start, value = self._level(name), seen.get(name)
        if start is not None and value is not None and value < share * start:
            message = f"{name} has fallen to {value:.4g}, below {share:.0%} of the start's {start:.4g} (guards.{guard})"
            yield Finding(guard, policy, message)

    def _level(self, name: str) -> float | None:
        values = self._start[name]
        return sum(values) / len(values) if len(values) >= self._config.start_steps else None

    def _remember(self, seen: Mapping[str, float]) -> None:
        for name, values in self._start.items():
            value = seen.get(name)
            if value is not None and math.isfinite(value) and len(values) < self._config.start_steps:
                values.append(value)
        for name, recent in self._recent.items():
            value = seen.get(name)
            if value is not None and math.isfinite(value):
                recent.append(value)


def worst(findings: Sequence[Finding]) -> Finding | None:
    """Returns the finding about which most is done; None where there is none."""
    return max(findings, key=lambda finding: _SEVERITY.index(finding.policy), default=None)
