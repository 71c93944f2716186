"""The feedback service as the loop's source of labels."""

from collections.abc import Iterable, Sequence

from google.protobuf import json_format

from preceptor.api.common.v1 import text_pb2
from preceptor.api.feedback.v1 import feedback_pb2
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.clients.feedback import FeedbackClient
from preceptor.common.errors import NotFound
from preceptor.conductor.loop_config import CollectStage, ProjectConfig
from preceptor.conductor.types import LabelCounts, LabelSnapshot, NewComparison

_PAGE = 500


class GrpcLabels:
    """A `Labels` over FeedbackService."""

    def __init__(self, client: FeedbackClient) -> None:
        self._client = client

    def ensure_project(self, project: ProjectConfig) -> None:
        """An existing project stays as people have made it since."""
        try:
            self._client.get_project(pb.GetProjectRequest(project_id=project.project_id))
        except NotFound:
            made = feedback_pb2.Project(
                project_id=project.project_id,
                title=project.title or project.project_id,
                guidelines=project.guidelines,
                default_overlap=1,
            )
            self._client.create_project(pb.CreateProjectRequest(project=made))

    def minted(self, project_id: str, run_id: str) -> set[str]:
        """All pages of ListComparisons."""
        found: set[str] = set()
        token = ""
        while True:
            page = self._client.list_comparisons(
                pb.ListComparisonsRequest(project_id=project_id, run_id=run_id, page_size=_PAGE, page_token=token)
            )
            found.update(c.comparison_id for c in page.comparisons)
            token = page.next_page_token
            if not token:
                return found

    def mint(self, project_id: str, run_id: str, comparisons: Sequence[NewComparison]) -> None:
        """One CreateComparisons."""
        request = pb.CreateComparisonsRequest(comparisons=[_comparison(project_id, run_id, c) for c in comparisons])
        self._client.create_comparisons(request)

    def counts(self, project_id: str) -> LabelCounts:
        """From GetStats."""
        stats = self._client.stats(pb.GetStatsRequest(project_id=project_id))
        return LabelCounts(stats.rankings, stats.comparisons_open)

    def snapshot(self, project_id: str) -> LabelSnapshot:
        """From CreateSnapshot."""
        made = self._client.create_snapshot(pb.CreateSnapshotRequest(project_id=project_id)).snapshot
        return LabelSnapshot(made.label_high_water_mark, made.label_hash, made.rankings)

    def export(self, project_id: str, label_high_water_mark: int) -> Iterable[tuple[str, str]]:
        """From ExportRankings."""
        request = pb.ExportRankingsRequest(project_id=project_id, label_high_water_mark=label_high_water_mark)
        for answer in self._client.export_rankings(request):
            line = json_format.MessageToJson(answer.item, preserving_proto_field_name=True, indent=None)
            yield answer.item.ranking.event_id, line


def sampling(settings: CollectStage) -> text_pb2.SamplingParameters:
    """How the loop's comparisons are drawn."""
    return text_pb2.SamplingParameters(temperature=settings.temperature, max_tokens=settings.max_tokens)


def _comparison(project_id: str, run_id: str, new: NewComparison) -> feedback_pb2.Comparison:
    group = new.group
    return feedback_pb2.Comparison(
        comparison_id=new.comparison_id,
        project_id=project_id,
        prompt=text_pb2.Prompt(text=group.prompt),
        prompt_id=new.prompt_id,
        candidates=[
            feedback_pb2.Candidate(
                candidate_id=f"c{i}", text=text, policy_version=group.policy_versions[i], truncated=group.truncated[i]
            )
            for i, text in enumerate(group.texts)
        ],
        overlap=new.overlap,
        run_id=run_id,
        group_id=new.comparison_id,
    )
