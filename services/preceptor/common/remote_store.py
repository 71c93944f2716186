"""Object stores through fsspec: no stale listings, and errors that say what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import fsspec

from preceptor.common.errors import FailedPrecondition, InvalidInput, NotFound, PermissionDenied, Unavailable

_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), for S3"
_ENDPOINT = "for another S3 than Amazon's set AWS_ENDPOINT_URL"


def file_system(uri: str) -> Any:
    """Returns fsspec's file system for an address.

    Raises:
        InvalidInput: fsspec does not know the address's protocol, or its package is not installed.
    """
    scheme = urlsplit(uri).scheme
    try:
        # What others write must be seen: a cached listing would also tell a replaced file's old size.
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise InvalidInput(f"{uri} cannot be used as a store: {error}", field="artifacts_url") from error


@contextmanager
def remote_errors(uri: str, *, writing: bool = False) -> Iterator[None]:
    """What an object store's client raises within the block becomes an error of ours.

    Raises:
        NotFound: there is nothing at the address.
        FailedPrecondition: what shall be written has no bucket to go to.
        PermissionDenied: the store refuses the credentials, or there are none.
        Unavailable: it cannot be reached, or failed.
    """
    try:
        yield
    except PermissionError as error:
        raise PermissionDenied(
            f"{uri}: the store refuses access ({error}): check the credentials; {_CREDENTIALS}", reason="STORE_DENIED"
        ) from error
    except FileNotFoundError as error:
        if writing:
            raise FailedPrecondition(
                f"{uri} cannot be written ({error}): create its bucket, or correct artifacts_url",
                reason="NO_BUCKET",
                field="artifacts_url",
            ) from error
        raise NotFound(f"no artifact at {uri} ({error})", reason="NO_ARTIFACT") from error
    except _client_errors() as error:
        if "credential" in type(error).__name__.lower():
            raise PermissionDenied(f"{uri}: {error}: {_CREDENTIALS}", reason="NO_CREDENTIALS") from error
        raise Unavailable(f"{uri} cannot be reached: {error}; {_ENDPOINT}", reason="STORE_UNAVAILABLE") from error


def _client_errors() -> tuple[type[BaseException], ...]:
    # botocore is there only where S3 is used; what it raises itself is no OSError.
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError,) if botocore is None else (OSError, botocore.BotoCoreError)
