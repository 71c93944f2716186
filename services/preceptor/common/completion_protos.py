"""Between the protos and preceptor.common.completions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from preceptor.api.common.v1 import text_pb2
from preceptor.common.completions import Sampling, VersionSpan

_OPTIONAL = tuple(field.name for field in fields(Sampling) if field.name not in ("max_tokens", "stop"))


def sampling_from(proto: text_pb2.SamplingParameters) -> Sampling:
    present = {descriptor.name for descriptor, _ in proto.ListFields()}
    given: dict[str, Any] = {name: getattr(proto, name) for name in _OPTIONAL if name in present}
    return Sampling(max_tokens=proto.max_tokens, stop=tuple(proto.stop), **given)


def sampling_to(sampling: Sampling) -> text_pb2.SamplingParameters:
    given: dict[str, Any] = {name: getattr(sampling, name) for name in _OPTIONAL}
    return text_pb2.SamplingParameters(max_tokens=sampling.max_tokens, stop=sampling.stop, **given)


def spans_from(completion: text_pb2.Completion) -> tuple[VersionSpan, ...]:
    return tuple(VersionSpan(span.policy_version, span.begin, span.end) for span in completion.version_spans)


def spans_to(spans: Iterable[VersionSpan]) -> list[text_pb2.VersionSpan]:
    return [text_pb2.VersionSpan(policy_version=s.policy_version, begin=s.begin, end=s.end) for s in spans]
