"""Users, keys, sessions, forgetting people, and the audit trail."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from preceptor.common.errors import AlreadyExists, NotFound, Overloaded, PermissionDenied
from preceptor.feedback import validation
from preceptor.feedback.access.types import ApiKey, AuditEntry, Principal, Role, Touched, User
from preceptor.feedback.service import Clock
from preceptor.feedback.store import Store, Transaction
from preceptor.feedback.types import Page, Retraction
from preceptor.feedback.vote_service import VoteService

LOGIN = re.compile(r"[^\s\x00-\x1f]{1,200}")
MIN_PASSWORD = 10
MAX_PASSWORD = 1000
SESSION = timedelta(hours=12)
KNOWN_FOR_S = 5.0
"""A key that was looked up is trusted so long before it is looked up again: so fast a revocation works."""
MOST_KNOWN = 10_000
FAILURES, FAILURES_WITHIN_S = 5, 60.0
ERASED = "the person asked to be forgotten"


@dataclass(frozen=True, slots=True)
class Session:
    token: str
    expires_at: datetime
    user: User


class AccessService:
    """Args:
    admin_key: an API key with all rights that needs no database, for the first user and for operators; empty: none.
    """

    def __init__(
        self,
        store: Store,
        votes: VoteService,
        clock: Clock,
        admin_key: str = "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._votes = votes
        self._clock = clock
        self._admin_hash = _hash(admin_key) if admin_key else ""
        self._monotonic = monotonic
        self._passwords = PasswordHasher()
        self._nobody = self._passwords.hash(secrets.token_urlsafe(16))
        self._known: OrderedDict[str, tuple[float, Principal]] = OrderedDict()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def authenticate(self, token: str) -> Principal:
        """Who holds the API key or session token.

        Raises:
            PermissionDenied: nobody does, or they are locked out.
        """
        secret = _hash(token)
        if self._admin_hash and hmac.compare_digest(secret, self._admin_hash):
            return Principal("admin-key", Role.ADMIN)
        with self._lock:
            known = self._known.get(secret)
        if known is not None and self._monotonic() - known[0] < KNOWN_FOR_S:
            return known[1]
        user = self._store.read(lambda tx: tx.holder(secret, self._clock()))
        if user is None or user.locked:
            raise PermissionDenied(
                "the API key or session is not valid: sign in again, or ask an admin for a key", reason="NOT_SIGNED_IN"
            )
        principal = principal_of(user)
        with self._lock:
            self._known[secret] = (self._monotonic(), principal)
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return principal

    def create_user(self, login: str, password: str, role: Role, rater_id: str = "") -> User:
        """Makes a user; without rater_id under a new random pseudonym.

        Raises:
            InvalidInput: a wrong login, password or pseudonym.
            AlreadyExists: the login or the pseudonym is taken.
        """
        if not LOGIN.fullmatch(login):
            raise validation.wrong("login", "1 to 200 characters without spaces")
        pseudonym = rater_id or f"rater-{secrets.token_hex(5)}"
        validation.check_rater_id(pseudonym)
        hashed = self._hashed(password) if password else ""
        user = User(str(uuid.uuid4()), login, pseudonym, role, hashed, created_at=self._clock())

        def step(tx: Transaction) -> User:
            if tx.user_by_login(login) is not None:
                raise AlreadyExists(f"login: {login!r} is taken", field="login")
            if tx.pseudonym_taken(pseudonym):
                raise AlreadyExists(f"rater_id: {pseudonym!r} is another user's", field="rater_id")
            tx.add_user(user)
            return user

        return self._store.write(step)

    def _hashed(self, password: str) -> str:
        if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise validation.wrong("password", f"{MIN_PASSWORD} to {MAX_PASSWORD} characters")
        return self._passwords.hash(password)

    def list_users(self, after: str, page_size: int) -> Page[User]:
        limit = validation.check_page_size(page_size)
        return self._store.read(lambda tx: tx.users(after, limit))

    def update_user(self, user_id: str, role: Role | None, password: str, locked: bool | None) -> User:
        """What is None or empty stays. A new password or a lock ends the user's sessions."""
        hashed = self._hashed(password) if password else ""

        def step(tx: Transaction) -> User:
            user = require_user(tx, user_id)
            changed = replace(
                user,
                role=role or user.role,
                password_hash=hashed or user.password_hash,
                locked=user.locked if locked is None else locked,
            )
            tx.set_user(changed)
            if hashed or changed.locked:
                tx.end_sessions(user_id)
            return changed

        changed = self._store.write(step)
        self._forget_known()
        return changed

    def create_api_key(self, user_id: str, label: str) -> tuple[ApiKey, str]:
        """The key's record, and the key itself, which is stored nowhere."""
        validation.check_text(label, "label", 200)
        secret = f"pk_{secrets.token_urlsafe(32)}"
        key = ApiKey(str(uuid.uuid4()), user_id, label, self._clock())

        def step(tx: Transaction) -> None:
            require_user(tx, user_id)
            tx.add_api_key(key, _hash(secret))

        self._store.write(step)
        return key, secret

    def revoke_api_key(self, key_id: str) -> None:
        if not self._store.write(lambda tx: tx.revoke_api_key(key_id)):
            raise NotFound(f"key_id: there is no key {key_id[:80]!r}", field="key_id")
        self._forget_known()

    def login(self, login: str, password: str) -> Session:
        """A session for the right password.

        Raises:
            PermissionDenied: login or password is wrong; it takes as long whichever it is.
            Overloaded: too many failures in a minute.
        """
        self._check_failures(login)
        user = self._store.read(lambda tx: tx.user_by_login(login))
        try:
            self._passwords.verify(user.password_hash if user and user.password_hash else self._nobody, password)
            right = user is not None and bool(user.password_hash) and not user.locked
        except VerificationError:
            right = False
        if user is None or not right:
            self._failed(login)
            raise PermissionDenied("login or password is wrong", reason="WRONG_PASSWORD")
        token, expires_at = f"ps_{secrets.token_urlsafe(32)}", self._clock() + SESSION
        self._store.write(lambda tx: tx.add_session(user.user_id, _hash(token), expires_at))
        return Session(token, expires_at, user)

    def _check_failures(self, login: str) -> None:
        with self._lock:
            failures = self._failures.get(login, deque[float]())
            recent = [at for at in failures if self._monotonic() - at < FAILURES_WITHIN_S]
        if len(recent) >= FAILURES:
            wait_s = FAILURES_WITHIN_S - (self._monotonic() - recent[-FAILURES])
            raise Overloaded("login: too many wrong passwords; wait a minute", reason="LOCKED", retry_after_s=wait_s)

    def _failed(self, login: str) -> None:
        with self._lock:
            self._failures.setdefault(login, deque(maxlen=FAILURES)).append(self._monotonic())
            if len(self._failures) > MOST_KNOWN:
                self._failures.popitem(last=False)

    def logout(self, token: str) -> None:
        self._store.write(lambda tx: tx.end_session(_hash(token)))
        self._forget_known()

    def user(self, user_id: str) -> User | None:
        return self._store.read(lambda tx: tx.user(user_id))

    def erase(self, user_id: str, *, retract: bool) -> tuple[str, int, list[Touched]]:
        """Forgets a person: pseudonym, how many votes were retracted, and what they had left where.

        Without `retract` the votes stay, under a pseudonym that leads to nobody.
        """
        user = self._store.read(lambda tx: require_user(tx, user_id))
        touched = self._store.read(lambda tx: tx.touched_by(user.rater_id))
        retracted = 0
        if retract:
            for event_id in self._store.read(lambda tx: tx.votes_in_force_of(user.rater_id)):
                self._votes.retract(Retraction(str(uuid.uuid4()), event_id, user.rater_id, ERASED))
                retracted += 1
        self._store.write(lambda tx: tx.forget_user(user_id))
        self._forget_known()
        return user.rater_id, retracted, touched

    def audit(self, actor: str, action: str, target: str) -> None:
        entry = AuditEntry(self._clock(), actor, action, target[:200])
        self._store.write(lambda tx: tx.audit(entry))

    def audit_entries(self, before: int | None, page_size: int) -> Page[AuditEntry]:
        """Newest first."""
        limit = validation.check_page_size(page_size)
        return self._store.read(lambda tx: tx.audit_entries(before, limit))

    def _forget_known(self) -> None:
        with self._lock:
            self._known.clear()


def principal_of(user: User) -> Principal:
    """Annotators rank as themselves alone; others may act for any rater."""
    return Principal(user.user_id, user.role, user.rater_id if user.role is Role.ANNOTATOR else "")


def require_user(tx: Transaction, user_id: str) -> User:
    user = tx.user(user_id)
    if user is None:
        raise NotFound(f"user_id: there is no user {user_id[:80]!r}", field="user_id")
    return user


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
