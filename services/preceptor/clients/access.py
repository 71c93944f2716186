"""Client of AccessService. Requests and answers are the protos of preceptor.api.feedback.v1."""

from __future__ import annotations

import grpc
import grpc.aio

from preceptor.api.feedback.v1 import access_service_pb2 as pb
from preceptor.api.feedback.v1 import access_service_pb2_grpc
from preceptor.clients.base import AsyncClient, SyncClient


class AccessClient(SyncClient):
    """AccessService, for threads."""

    def __init__(self, target: str | grpc.Channel) -> None:
        super().__init__(target)
        self._stub = access_service_pb2_grpc.AccessServiceStub(self._channel)

    def create_user(self, request: pb.CreateUserRequest, *, timeout_s: float = 10.0) -> pb.CreateUserResponse:
        """Makes a user and their pseudonym."""
        return self._call(self._stub.CreateUser, request, timeout_s)

    def list_users(self, request: pb.ListUsersRequest, *, timeout_s: float = 10.0) -> pb.ListUsersResponse:
        """Returns a page of users."""
        return self._call(self._stub.ListUsers, request, timeout_s)

    def update_user(self, request: pb.UpdateUserRequest, *, timeout_s: float = 10.0) -> pb.UpdateUserResponse:
        """Changes role, password or lock."""
        return self._call(self._stub.UpdateUser, request, timeout_s)

    def create_api_key(self, request: pb.CreateApiKeyRequest, *, timeout_s: float = 10.0) -> pb.CreateApiKeyResponse:
        """Makes a key; the answer alone holds it."""
        return self._call(self._stub.CreateApiKey, request, timeout_s)

    def revoke_api_key(self, request: pb.RevokeApiKeyRequest, *, timeout_s: float = 10.0) -> pb.RevokeApiKeyResponse:
        """Makes a key worthless."""
        return self._call(self._stub.RevokeApiKey, request, timeout_s)

    def login(self, request: pb.LoginRequest, *, timeout_s: float = 10.0) -> pb.LoginResponse:
        """Returns a session token for a password."""
        return self._call(self._stub.Login, request, timeout_s)

    def logout(self, request: pb.LogoutRequest, *, timeout_s: float = 10.0) -> pb.LogoutResponse:
        """Ends the session of the token in force."""
        return self._call(self._stub.Logout, request, timeout_s)

    def who_am_i(self, request: pb.WhoAmIRequest, *, timeout_s: float = 10.0) -> pb.WhoAmIResponse:
        """Returns the user of the token in force."""
        return self._call(self._stub.WhoAmI, request, timeout_s)

    def erase_person(self, request: pb.ErasePersonRequest, *, timeout_s: float = 600.0) -> pb.ErasePersonResponse:
        """Forgets a person, and retracts their votes if asked to."""
        return self._call(self._stub.ErasePerson, request, timeout_s)

    def list_audit(self, request: pb.ListAuditRequest, *, timeout_s: float = 10.0) -> pb.ListAuditResponse:
        """Returns a page of the audit trail, newest first."""
        return self._call(self._stub.ListAudit, request, timeout_s)


class AsyncAccessClient(AsyncClient):
    """As `AccessClient`, for asyncio."""

    def __init__(self, target: str | grpc.aio.Channel) -> None:
        super().__init__(target)
        self._stub = access_service_pb2_grpc.AccessServiceStub(self._channel)

    async def create_user(self, request: pb.CreateUserRequest, *, timeout_s: float = 10.0) -> pb.CreateUserResponse:
        return await self._call(self._stub.CreateUser, request, timeout_s)

    async def list_users(self, request: pb.ListUsersRequest, *, timeout_s: float = 10.0) -> pb.ListUsersResponse:
        return await self._call(self._stub.ListUsers, request, timeout_s)

    async def update_user(self, request: pb.UpdateUserRequest, *, timeout_s: float = 10.0) -> pb.UpdateUserResponse:
        return await self._call(self._stub.UpdateUser, request, timeout_s)

    async def create_api_key(
        self, request: pb.CreateApiKeyRequest, *, timeout_s: float = 10.0
    ) -> pb.CreateApiKeyResponse:
        return await self._call(self._stub.CreateApiKey, request, timeout_s)

    async def revoke_api_key(
        self, request: pb.RevokeApiKeyRequest, *, timeout_s: float = 10.0
    ) -> pb.RevokeApiKeyResponse:
        return await self._call(self._stub.RevokeApiKey, request, timeout_s)

    async def login(self, request: pb.LoginRequest, *, timeout_s: float = 10.0) -> pb.LoginResponse:
        return await self._call(self._stub.Login, request, timeout_s)

    async def logout(self, request: pb.LogoutRequest, *, timeout_s: float = 10.0) -> pb.LogoutResponse:
        return await self._call(self._stub.Logout, request, timeout_s)

    async def who_am_i(self, request: pb.WhoAmIRequest, *, timeout_s: float = 10.0) -> pb.WhoAmIResponse:
        return await self._call(self._stub.WhoAmI, request, timeout_s)

    async def erase_person(self, request: pb.ErasePersonRequest, *, timeout_s: float = 600.0) -> pb.ErasePersonResponse:
        return await self._call(self._stub.ErasePerson, request, timeout_s)

    async def list_audit(self, request: pb.ListAuditRequest, *, timeout_s: float = 10.0) -> pb.ListAuditResponse:
        return await self._call(self._stub.ListAudit, request, timeout_s)
