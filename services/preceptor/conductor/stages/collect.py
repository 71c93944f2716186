"""Comparisons from fresh samples of the policy, and waiting until enough of them are ranked."""

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice

from preceptor.common.errors import InvalidInput
from preceptor.conductor.stages.context import StageContext, StageError
from preceptor.conductor.types import NewComparison, SampledGroup

MINT_AT_ONCE = 32
RESAMPLES = 8


def collect(context: StageContext) -> None:
    """Mints the configured number of comparisons; those that are there already count."""
    context.world.labels.ensure_project(context.config.project)
    _mint_up_to(context, context.config.collect.comparisons)


def wait_for_labels(context: StageContext) -> None:
    """Returns once the iteration's target of rankings is in force.

    When nothing is left to rank below the target (live rollouts offered too little), the newest policy is sampled for
    what is missing.

    Raises:
        StageError: labels.timeout_s went by.
    """
    settings = context.config.labels
    target = settings.targets[context.stage.iteration - 1]
    deadline = time.monotonic() + settings.timeout_s
    last = -1
    while True:
        counts = context.world.labels.counts(context.project_id)
        if counts.rankings != last:
            last = counts.rankings
            values = {"rankings": float(last), "target": float(target), "open": float(counts.comparisons_open)}
            context.progress(last / target, f"{last} of {target} rankings")
            context.event("metric", f"{last} rankings", values)
        if counts.rankings >= target:
            return
        if time.monotonic() > deadline:
            raise StageError(
                f"{counts.rankings} of {target} rankings after {settings.timeout_s:g} s: ask for more labels or lower "
                "labels.targets",
                reason="TOO_FEW_LABELS",
            )
        if counts.comparisons_open == 0:
            minted = context.world.labels.minted(context.project_id, _source(context))
            missing = min(target - counts.rankings, context.config.collect.comparisons)
            _mint_up_to(context, len(minted) + missing)
        context.wait()


def _source(context: StageContext) -> str:
    return f"{context.rl_run_id}-{context.stage.name}"[:63]


def _mint_up_to(context: StageContext, wanted: int) -> None:
    source = _source(context)
    done = context.world.labels.minted(context.project_id, source)
    missing = [i for i in range(wanted) if _comparison_id(context, i) not in done]
    prompts = _read_prompts(context)
    minted = wanted - len(missing)
    for batch in _batches(_sampled(context, missing, prompts), MINT_AT_ONCE):
        context.world.labels.mint(context.project_id, source, batch)
        minted += len(batch)
        context.progress(minted / wanted, f"{minted} of {wanted} comparisons minted")
        context.check_stop()
    context.event("metric", f"{minted} comparisons minted", {"comparisons": float(minted)})


def _sampled(context: StageContext, indexes: list[int], prompts: list[tuple[str, str]]) -> Iterator[NewComparison]:
    """New comparisons in the order in which their groups arrive; a bounded number is under way at a time."""
    waiting = iter(indexes)
    pool = ThreadPoolExecutor(context.config.collect.concurrency, "collect")
    try:
        under_way: set[Future[NewComparison]] = set()
        while True:
            room = 2 * context.config.collect.concurrency - len(under_way)
            under_way |= {pool.submit(_sample, context, i, prompts) for i in islice(waiting, room)}
            if not under_way:
                return
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _sample(context: StageContext, index: int, prompts: list[tuple[str, str]]) -> NewComparison:
    settings = context.config.collect
    rng = random.Random(f"{context.config.seed}-{context.stage.name}-{index}")
    overlap = settings.full_overlap if rng.random() < settings.full_overlap_share else 1
    for _ in range(RESAMPLES):
        prompt_id, prompt = rng.choice(prompts)
        group = distinct(context.world.generators.sample(context.rl_run_id, prompt, settings))
        if len(group.texts) > 1:
            return NewComparison(_comparison_id(context, index), prompt_id, overlap, group)
    raise StageError(
        f"{RESAMPLES} prompts in a row got {settings.n} equal completions: the policy has collapsed, or "
        "collect.temperature is too low",
        reason="NOTHING_TO_COMPARE",
    )


def distinct(group: SampledGroup) -> SampledGroup:
    """The group without repeated texts: there is nothing to rank between equals."""
    first = sorted({text: i for i, text in reversed(list(enumerate(group.texts)))}.values())
    return SampledGroup(
        group.prompt,
        tuple(group.texts[i] for i in first),
        tuple(group.policy_versions[i] for i in first),
        tuple(group.truncated[i] for i in first),
    )


def _comparison_id(context: StageContext, index: int) -> str:
    return f"{context.loop_id}-{context.stage.name}-{index:06d}"


def _batches(items: Iterator[NewComparison], size: int) -> Iterator[list[NewComparison]]:
    while batch := list(islice(items, size)):
        yield batch


def _read_prompts(context: StageContext) -> list[tuple[str, str]]:
    path = context.world.artifacts.local(context.config.prompts)
    prompts = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                prompts.append((str(row.get("prompt_id", number)), str(row["prompt"])))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise InvalidInput(
                    f'{path}:{number}: each line is a JSON object with "prompt", not {line.strip()[:80]!r}',
                    field="prompts",
                ) from error
    if not prompts:
        raise InvalidInput(f"{path} holds no prompt", field="prompts")
    return prompts
