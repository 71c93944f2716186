"""Which policy version is in force, and waiting for a later one."""

from __future__ import annotations

import asyncio

from preceptor.common.errors import FailedPrecondition, Unavailable
from preceptor.generation.types import NO_VERSION

_REPLY_MARGIN_S = 0.25  # so that the answer arrives before the caller's own clock runs out


class VersionClock:
    """The version in force. It only grows."""

    def __init__(self) -> None:
        self._version = NO_VERSION
        self._changed = asyncio.Event()
        self._leaving = False

    @property
    def version(self) -> int:
        return self._version

    def advance(self, version: int) -> None:
        """Puts a version into force. ValueError when it is not newer."""
        if version <= self._version:
            raise ValueError(f"version {version} is not newer than {self._version}")
        self._version = version
        self._changed.set()
        self._changed = asyncio.Event()  # whoever waits holds the old one

    def leave(self) -> None:
        """Ends every wait: this generator takes no further version."""
        self._leaving = True
        self._changed.set()

    async def reach(self, version: int, timeout_s: float) -> None:
        """Returns once `version` or a newer one is in force.

        Raises:
            FailedPrecondition: it was not within `timeout_s`.
            Unavailable: the generator leaves.
        """
        try:
            async with asyncio.timeout(max(0.0, timeout_s - _REPLY_MARGIN_S)):
                while self._version < version:
                    if self._leaving:
                        raise Unavailable(f"this generator leaves before it reaches version {version}")
                    await self._changed.wait()
        except TimeoutError:
            raise FailedPrecondition(
                f"min_policy_version is {version}, and within {timeout_s:.1f} s this generator reached {self._version}",
                field="min_policy_version",
                reason="VERSION_NOT_REACHED",
                metadata={"policy_version": str(self._version)},
            ) from None
