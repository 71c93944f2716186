"""Who may do what, through gRPC on both databases."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import access_service_pb2 as access_pb
from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.clients.access import AccessClient
from preceptor.clients.credentials import bearer_token
from preceptor.clients.feedback import FeedbackClient
from preceptor.common.errors import AlreadyExists, InvalidInput, Overloaded, PermissionDenied
from tests.integration.feedback.feedback_process import feedback_environment
from tests.support.processes import ServiceProcess
from tests.unit.feedback.world import PROJECT, new_id

ADMIN_KEY = "admin-key-of-this-test-alone"
PASSWORD = "correct horse battery"


class Doors:
    """Both services of one server, called as whoever is named."""

    def __init__(self, address: str) -> None:
        self.votes = FeedbackClient(address)
        self.access = AccessClient(address)
        self.keys = {"admin": ADMIN_KEY, "nobody": ""}

    @contextmanager
    def by(self, who: str) -> Iterator[None]:
        token = bearer_token.set(self.keys[who])
        yield
        bearer_token.reset(token)

    def add(self, login: str, role: access_pb.Role, password: str = "") -> access_pb.User:
        with self.by("admin"):
            user = self.access.create_user(access_pb.CreateUserRequest(login=login, role=role, password=password)).user
            made = self.access.create_api_key(access_pb.CreateApiKeyRequest(user_id=user.user_id, label="test"))
        self.keys[login] = made.key
        return user


@pytest.fixture
def doors(database_url: str, tmp_path: Path) -> Iterator[Doors]:
    environment = feedback_environment(tmp_path, database_url) | {
        "PRECEPTOR_FEEDBACK_ACCESS": "required",
        "PRECEPTOR_FEEDBACK_ADMIN_KEY": ADMIN_KEY,
    }
    metrics_port = int(environment["PRECEPTOR_FEEDBACK_METRICS_PORT"])
    with ServiceProcess("preceptor.feedback", environment, tmp_path, metrics_port=metrics_port) as server:
        server.wait_ready()
        made = Doors(f"127.0.0.1:{environment['PRECEPTOR_FEEDBACK_PORT']}")
        with made.by("admin"):
            project = fb.Project(project_id=PROJECT, default_overlap=3)
            made.votes.create_project(pb.CreateProjectRequest(project=project))
            made.votes.create_comparisons(pb.CreateComparisonsRequest(comparisons=[asked("one"), asked("two")]))
        yield made
        made.votes.close()
        made.access.close()


def asked(name: str) -> fb.Comparison:
    candidates = [fb.Candidate(candidate_id=c, text=c, policy_version=7, truncated=True) for c in "ab"]
    return fb.Comparison(
        comparison_id=name, project_id=PROJECT, prompt=text_pb2.Prompt(text="Hi"), candidates=candidates, run_id="r"
    )


def vote(name: str, rater_id: str) -> pb.SubmitRankingRequest:
    body = fb.RankingBody(tie_groups=[fb.TieGroup(candidate_ids=[c]) for c in "ab"])
    return pb.SubmitRankingRequest(event_id=new_id(), comparison_id=name, rater_id=rater_id, body=body)


def test_each_role_may_do_its_own(doors: Doors) -> None:
    ann = doors.add("ann", access_pb.ROLE_ANNOTATOR)
    bob = doors.add("bob", access_pb.ROLE_ANNOTATOR)
    doors.add("eve", access_pb.ROLE_VIEWER)
    doors.add("loop", access_pb.ROLE_SERVICE)
    with doors.by("nobody"), pytest.raises(PermissionDenied, match="who are you"):
        doors.votes.list_projects(pb.ListProjectsRequest())
    doors.keys["stranger"] = "pk_made-up"
    with doors.by("stranger"), pytest.raises(PermissionDenied, match="is not valid"):
        doors.votes.list_projects(pb.ListProjectsRequest())
    with doors.by("ann"):
        lease = doors.votes.lease_comparison(pb.LeaseComparisonRequest(project_id=PROJECT, rater_id=ann.rater_id)).lease
        doors.votes.submit_ranking(vote(lease.comparison.comparison_id, ann.rater_id))
        with pytest.raises(PermissionDenied, match="nobody else"):
            doors.votes.submit_ranking(vote("one", bob.rater_id))
        with pytest.raises(PermissionDenied, match="nobody else"):
            doors.votes.list_rankings(pb.ListRankingsRequest(project_id=PROJECT))
        with pytest.raises(PermissionDenied, match="annotator may not"):
            list(doors.votes.export_rankings(pb.ExportRankingsRequest(project_id=PROJECT)))
        with pytest.raises(PermissionDenied, match="annotator may not"):
            doors.access.list_users(access_pb.ListUsersRequest())
        shown = doors.votes.get_comparison(pb.GetComparisonRequest(comparison_id="one")).comparison
        assert (shown.run_id, shown.candidates[0].policy_version, shown.candidates[0].truncated) == ("", 0, False)
    with doors.by("bob"):
        doors.votes.submit_ranking(vote("one", bob.rater_id))
        stats = doors.votes.stats(pb.GetStatsRequest(project_id=PROJECT))
        assert [rater.rater_id for rater in stats.raters] == [bob.rater_id]
    with doors.by("eve"):
        assert len(list(doors.votes.export_rankings(pb.ExportRankingsRequest(project_id=PROJECT)))) == 2
        with pytest.raises(PermissionDenied):
            doors.votes.submit_ranking(vote("two", ann.rater_id))
        with pytest.raises(PermissionDenied):
            doors.votes.set_rater_state(pb.SetRaterStateRequest(project_id=PROJECT, rater_id="x", reason="y"))
    with doors.by("loop"):
        doors.votes.create_comparisons(pb.CreateComparisonsRequest(comparisons=[asked("three")]))
        with pytest.raises(PermissionDenied):
            doors.access.create_user(access_pb.CreateUserRequest(login="x", role=access_pb.ROLE_ADMIN))
    with doors.by("admin"):
        entries = doors.access.list_audit(access_pb.ListAuditRequest()).entries
    assert [entry.action for entry in entries[:1]] == ["ExportRankings"]
    assert {"CreateProject", "CreateUser", "CreateApiKey"} <= {entry.action for entry in entries}
    assert entries[0].target == f"project_id={PROJECT}"


def test_passwords_sessions_and_locks(doors: Doors) -> None:
    ann = doors.add("ann", access_pb.ROLE_ANNOTATOR, PASSWORD)
    with doors.by("nobody"):
        session = doors.access.login(access_pb.LoginRequest(login="ann", password=PASSWORD))
        for login, password in (("ann", "wrong"), ("nobody", PASSWORD)):
            with pytest.raises(PermissionDenied, match="login or password is wrong"):
                doors.access.login(access_pb.LoginRequest(login=login, password=password))
    doors.keys["session"] = session.token
    with doors.by("session"):
        assert doors.access.who_am_i(access_pb.WhoAmIRequest()).user == ann
        doors.access.logout(access_pb.LogoutRequest())
        with pytest.raises(PermissionDenied, match="is not valid"):
            doors.access.who_am_i(access_pb.WhoAmIRequest())
    with doors.by("admin"):
        doors.access.update_user(access_pb.UpdateUserRequest(user_id=ann.user_id, locked=True))
        with pytest.raises(AlreadyExists, match="'ann' is taken"):
            doors.access.create_user(access_pb.CreateUserRequest(login="ann", role=access_pb.ROLE_VIEWER))
        with pytest.raises(InvalidInput, match="10 to 1000 characters"):
            doors.access.create_user(
                access_pb.CreateUserRequest(login="x", password="short", role=access_pb.ROLE_ADMIN)
            )
    with doors.by("ann"), pytest.raises(PermissionDenied, match="is not valid"):
        doors.votes.list_projects(pb.ListProjectsRequest())
    with doors.by("nobody"):
        for _ in range(4):
            with pytest.raises(PermissionDenied):
                doors.access.login(access_pb.LoginRequest(login="ann", password="wrong"))
        with pytest.raises(Overloaded, match="too many wrong passwords"):
            doors.access.login(access_pb.LoginRequest(login="ann", password=PASSWORD))


@pytest.mark.parametrize("retract", [True, False])
def test_a_person_is_forgotten(doors: Doors, retract: bool) -> None:
    ann = doors.add("ann", access_pb.ROLE_ANNOTATOR)
    with doors.by("ann"):
        doors.votes.submit_ranking(vote("one", ann.rater_id))
        doors.votes.submit_ranking(vote("two", ann.rater_id))
    with doors.by("admin"):
        answer = doors.access.erase_person(access_pb.ErasePersonRequest(user_id=ann.user_id, retract=retract))
        assert (answer.rater_id, answer.retracted) == (ann.rater_id, 2 if retract else 0)
        assert [(one.project_id, one.votes, one.first_sequence) for one in answer.projects] == [(PROJECT, 2, 1)]
        left = doors.votes.stats(pb.GetStatsRequest(project_id=PROJECT)).rankings
        assert left == (0 if retract else 2)
        assert not doors.access.list_users(access_pb.ListUsersRequest()).users
    with doors.by("ann"), pytest.raises(PermissionDenied, match="is not valid"):
        doors.votes.list_projects(pb.ListProjectsRequest())
