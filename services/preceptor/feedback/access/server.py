"""The gRPC face of access: convert, call, convert."""

from __future__ import annotations

from typing import Any

from preceptor.api.feedback.v1 import access_service_pb2 as pb
from preceptor.api.feedback.v1 import access_service_pb2_grpc as pb_grpc
from preceptor.common.errors import InvalidInput
from preceptor.feedback import converters
from preceptor.feedback.access.guard import caller
from preceptor.feedback.access.service import AccessService
from preceptor.feedback.access.types import ApiKey, AuditEntry, Role, User
from preceptor.feedback.database_threads import DatabaseThreads

FULL_NAME = "preceptor.api.feedback.v1.AccessService"

_ROLES = {
    pb.ROLE_ADMIN: Role.ADMIN,
    pb.ROLE_ANNOTATOR: Role.ANNOTATOR,
    pb.ROLE_VIEWER: Role.VIEWER,
    pb.ROLE_SERVICE: Role.SERVICE,
}
_ROLE_PROTOS = {role: proto for proto, role in _ROLES.items()}


class AccessServicer(pb_grpc.AccessServiceServicer):
    def __init__(self, access: AccessService, threads: DatabaseThreads) -> None:
        self._access = access
        self._run: Any = threads.run

    async def CreateUser(self, request: pb.CreateUserRequest, context: Any) -> pb.CreateUserResponse:
        role = role_of(request.role)
        user = await self._run(self._access.create_user, request.login, request.password, role, request.rater_id)
        return pb.CreateUserResponse(user=user_to_proto(user))

    async def ListUsers(self, request: pb.ListUsersRequest, context: Any) -> pb.ListUsersResponse:
        page = await self._run(self._access.list_users, request.page_token, request.page_size)
        return pb.ListUsersResponse(
            users=[user_to_proto(user) for user in page.items], next_page_token=converters.token(page.next_key)
        )

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Any) -> pb.UpdateUserResponse:
        role = role_of(request.role) if request.role else None
        locked = request.locked if request.HasField("locked") else None
        user = await self._run(self._access.update_user, request.user_id, role, request.password, locked)
        return pb.UpdateUserResponse(user=user_to_proto(user))

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Any) -> pb.CreateApiKeyResponse:
        key, secret = await self._run(self._access.create_api_key, request.user_id, request.label)
        return pb.CreateApiKeyResponse(api_key=_key_to_proto(key), key=secret)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Any) -> pb.RevokeApiKeyResponse:
        await self._run(self._access.revoke_api_key, request.key_id)
        return pb.RevokeApiKeyResponse()

    async def Login(self, request: pb.LoginRequest, context: Any) -> pb.LoginResponse:
        session = await self._run(self._access.login, request.login, request.password)
        expires_at = converters.timestamp(session.expires_at)
        return pb.LoginResponse(token=session.token, expires_at=expires_at, user=user_to_proto(session.user))

    async def Logout(self, request: pb.LogoutRequest, context: Any) -> pb.LogoutResponse:
        await self._run(self._access.logout, caller.get()[1])
        return pb.LogoutResponse()

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Any) -> pb.WhoAmIResponse:
        principal, _ = caller.get()
        user = await self._run(self._access.user, principal.user_id)
        return pb.WhoAmIResponse(user=user_to_proto(user) if user else None)

    async def ErasePerson(self, request: pb.ErasePersonRequest, context: Any) -> pb.ErasePersonResponse:
        rater_id, retracted, touched = await self._erase(request)
        projects = [
            pb.TouchedProject(project_id=one.project_id, votes=one.votes, first_sequence=one.first_sequence)
            for one in touched
        ]
        return pb.ErasePersonResponse(rater_id=rater_id, retracted=retracted, projects=projects)

    async def _erase(self, request: pb.ErasePersonRequest) -> Any:
        return await self._run(lambda: self._access.erase(request.user_id, retract=request.retract))

    async def ListAudit(self, request: pb.ListAuditRequest, context: Any) -> pb.ListAuditResponse:
        before = converters.number_token(request.page_token)
        page = await self._run(self._access.audit_entries, before, request.page_size)
        return pb.ListAuditResponse(
            entries=[_entry_to_proto(entry) for entry in page.items], next_page_token=converters.token(page.next_key)
        )


def role_of(proto: pb.Role.ValueType) -> Role:
    if proto not in _ROLES:
        raise InvalidInput(f"role: {proto} is no role; 1 (admin) to 4 (service) are", field="role")
    return _ROLES[proto]


def user_to_proto(user: User) -> pb.User:
    return pb.User(
        user_id=user.user_id,
        login=user.login,
        rater_id=user.rater_id,
        role=_ROLE_PROTOS[user.role],
        locked=user.locked,
        issuer=user.issuer,
        subject=user.subject,
        created_at=converters.timestamp(user.created_at),
    )


def _key_to_proto(key: ApiKey) -> pb.ApiKey:
    created_at = converters.timestamp(key.created_at)
    return pb.ApiKey(key_id=key.key_id, user_id=key.user_id, label=key.label, created_at=created_at)


def _entry_to_proto(entry: AuditEntry) -> pb.AuditEntry:
    return pb.AuditEntry(
        sequence=entry.sequence,
        time=converters.timestamp(entry.time),
        actor=entry.actor,
        action=entry.action,
        target=entry.target,
    )
