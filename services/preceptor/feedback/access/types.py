"""People and programs, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Role(StrEnum):
    ADMIN = "admin"  # everything
    ANNOTATOR = "annotator"  # ranks under their own pseudonym
    VIEWER = "viewer"  # reads everything but identities
    SERVICE = "service"  # everything but users


@dataclass(frozen=True, slots=True)
class User:
    """The one place where a person and their pseudonym stand together.

    Attributes:
        issuer, subject: of an identity provider (OIDC); empty where the user has a password or keys alone.
    """

    user_id: str
    login: str
    rater_id: str
    role: Role
    password_hash: str = ""
    locked: bool = False
    issuer: str = ""
    subject: str = ""
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a call. rater_id: the only one they may rank as; empty: any."""

    user_id: str
    role: Role
    rater_id: str = ""


@dataclass(frozen=True, slots=True)
class ApiKey:
    key_id: str
    user_id: str
    label: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AuditEntry:
    time: datetime
    actor: str
    action: str
    target: str
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Touched:
    """What a rater left in a project. Reward models with a label high-water mark from first_sequence on were trained on
    it."""

    project_id: str
    votes: int
    first_sequence: int


OPEN = Principal("open", Role.ADMIN)
"""Whoever calls where access is open."""
