"""Stands before the servicers: who calls, may they, how often; and writes the audit trail."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.common.errors import Overloaded, PermissionDenied, Unavailable
from preceptor.feedback.access.service import AccessService
from preceptor.feedback.access.types import OPEN, Principal, Role
from preceptor.feedback.database_threads import DatabaseThreads

caller: ContextVar[tuple[Principal, str]] = ContextVar("caller", default=(OPEN, ""))
"""Who makes the call in progress, and with which token."""

_ADMIN = frozenset({Role.ADMIN})
_KEEP = frozenset({Role.ADMIN, Role.SERVICE})
_READ = frozenset({Role.ADMIN, Role.SERVICE, Role.VIEWER})
_WORK = frozenset({Role.ADMIN, Role.SERVICE, Role.ANNOTATOR})
_ALL = frozenset(Role)
MOST_CALLERS = 10_000


@dataclass(frozen=True, slots=True)
class Rule:
    """own: an annotator may name no rater_id but their own. audited: goes into the audit trail."""

    roles: frozenset[Role]
    own: bool = False
    audited: bool = False
    anonymous: bool = False


RULES = {
    "CreateProject": Rule(_KEEP, audited=True),
    "GetProject": Rule(_ALL),
    "ListProjects": Rule(_ALL),
    "CreateComparisons": Rule(_KEEP),
    "GetComparison": Rule(_ALL),
    "ListComparisons": Rule(_READ),
    "LeaseComparison": Rule(_WORK, own=True),
    "ExtendLease": Rule(_WORK, own=True),
    "ReleaseLease": Rule(_WORK, own=True),
    "SubmitRanking": Rule(_WORK, own=True),
    "RetractRanking": Rule(_WORK, own=True),
    "ListRankings": Rule(_ALL, own=True),
    "CreateSnapshot": Rule(_READ),
    "ExportRankings": Rule(_READ, audited=True),
    "GetStats": Rule(_ALL),
    "UpdateProject": Rule(_KEEP, audited=True),
    "UpdateComparisons": Rule(_KEEP, audited=True),
    "GetRaterReport": Rule(_READ),
    "SetRaterState": Rule(_KEEP, audited=True),
    "MintGold": Rule(_KEEP, audited=True),
    "SubmitDemonstration": Rule(_WORK, own=True),
    "ListDemonstrations": Rule(_READ),
    "CreateUser": Rule(_ADMIN, audited=True),
    "ListUsers": Rule(_ADMIN),
    "UpdateUser": Rule(_ADMIN, audited=True),
    "CreateApiKey": Rule(_ADMIN, audited=True),
    "RevokeApiKey": Rule(_ADMIN, audited=True),
    "Login": Rule(_ALL, anonymous=True),
    "Logout": Rule(_ALL),
    "WhoAmI": Rule(_ALL),
    "ErasePerson": Rule(_ADMIN, audited=True),
    "ListAudit": Rule(_ADMIN),
}
_TARGETS = ("project_id", "user_id", "rater_id", "key_id", "login")


class Guarded:
    """A servicer whose methods are called by those alone who may.

    Args:
        required: whether callers must say who they are; otherwise everybody is an admin.
        opened: set once the database can be used; earlier calls are told to come back.
        calls_per_s: of one annotator, on average; bursts of ten seconds' worth pass.
    """

    def __init__(
        self,
        servicer: Any,
        access: AccessService,
        threads: DatabaseThreads,
        opened: asyncio.Event,
        *,
        required: bool,
        calls_per_s: float,
    ) -> None:
        self._servicer = servicer
        self._access = access
        self._threads = threads
        self._required = required
        self._opened = opened
        self._pace = Pace(calls_per_s, burst=10 * calls_per_s)

    def __getattr__(self, name: str) -> Callable[[Any, Any], Any]:
        rule = RULES[name]
        method = getattr(self._servicer, name)
        if name == "ExportRankings":
            return lambda request, context: self._stream(rule, method, request, context)
        return lambda request, context: self._call(name, rule, method, request, context)

    async def _call(self, name: str, rule: Rule, method: Any, request: Any, context: Any) -> Any:
        principal = await self._admit(rule, request, context)
        answer = await method(request, context)
        if rule.audited:
            await self._threads.run(self._access.audit, principal.user_id, name, target_of(request))
        return for_annotators(answer, principal) if principal.role is Role.ANNOTATOR else answer

    async def _stream(self, rule: Rule, method: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        principal = await self._admit(rule, request, context)
        await self._threads.run(self._access.audit, principal.user_id, "ExportRankings", target_of(request))
        async for answer in method(request, context):
            yield answer

    async def _admit(self, rule: Rule, request: Any, context: Any) -> Principal:
        if not self._opened.is_set():
            raise Unavailable("the feedback service is opening its database", retry_after_s=1.0)
        token = bearer(context)
        if not self._required:
            caller.set((OPEN, token))
            return OPEN
        if rule.anonymous:
            return OPEN
        if not token:
            raise PermissionDenied(
                "who are you? Send an API key as metadata: authorization: Bearer <key>", reason="NOT_SIGNED_IN"
            )
        principal = await self._threads.run(self._access.authenticate, token)
        if principal.role not in rule.roles:
            allowed = ", ".join(sorted(role.value for role in rule.roles))
            raise PermissionDenied(f"role {principal.role.value} may not do this; {allowed} may", reason="ROLE")
        if principal.role is Role.ANNOTATOR:
            self._pace.take(principal.user_id)
            if rule.own and request.rater_id != principal.rater_id:
                raise PermissionDenied(
                    f"rater_id: you rank as {principal.rater_id!r} and nobody else", field="rater_id", reason="NOT_YOU"
                )
        caller.set((principal, token))
        return principal


class Pace:
    """A token bucket per caller."""

    def __init__(self, per_s: float, burst: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = burst
        self._monotonic = monotonic
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str) -> None:
        """Raises Overloaded, with when to come back, for a caller who is too fast."""
        now = self._monotonic()
        left, at = self._left.pop(who, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_s)
        if len(self._left) >= MOST_CALLERS:
            self._left.popitem(last=False)
        if left < 1:
            self._left[who] = (left, now)
            raise Overloaded(
                f"more than {self._per_s:g} calls a second", reason="RATE_LIMIT", retry_after_s=(1 - left) / self._per_s
            )
        self._left[who] = (left - 1, now)


def bearer(context: Any) -> str:
    """The token in the call's metadata; empty when there is none."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and str(value).lower().startswith("bearer "):
            return str(value)[len("bearer ") :].strip()
    return ""


def target_of(request: Any) -> str:
    """What an audited request is about, by its ids."""
    subject = request.project if hasattr(request, "project") else request
    names = [name for name in _TARGETS if getattr(subject, name, "")]
    return " ".join(f"{name}={getattr(subject, name)}" for name in names)


def for_annotators(answer: Any, principal: Principal) -> Any:
    """The answer without what would tell a rater where candidates come from, or about other raters."""
    if hasattr(answer, "comparison"):
        answer.comparison.CopyFrom(_blind(answer.comparison))
    if hasattr(answer, "raters"):
        own = [rater for rater in answer.raters if rater.rater_id == principal.rater_id]
        del answer.raters[:]
        answer.raters.extend(own)
    return answer


def _blind(comparison: fb.Comparison) -> fb.Comparison:
    return fb.Comparison(
        comparison_id=comparison.comparison_id,
        project_id=comparison.project_id,
        prompt=comparison.prompt,
        candidates=[fb.Candidate(candidate_id=one.candidate_id, text=one.text) for one in comparison.candidates],
        state=comparison.state,
    )
