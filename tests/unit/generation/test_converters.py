from preceptor.api.common.v1 import text_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.common.completions import Sampling, VersionSpan
from preceptor.generation import converters
from preceptor.generation.types import (
    Completion,
    Conversation,
    Finish,
    Outcome,
    State,
    Status,
    TokenIds,
    Turn,
    WeightUpdateRecord,
)


def test_absent_sampling_fields_stay_absent() -> None:
    asked = pb.GenerateRequest(prompt=text_pb2.Prompt(text="hi"))
    asked.sampling.max_tokens = 3
    command = converters.command_from(asked, 2.5)
    assert command.sampling == Sampling(max_tokens=3)
    assert (command.prompt, command.n, command.rl, command.deadline_s) == ("hi", 1, False, 2.5)
    assert command.request_id, "one is made"


def test_a_zero_that_was_sent_is_a_zero() -> None:
    asked = pb.GenerateRequest(mode=pb.SAMPLING_MODE_RL)
    asked.sampling.temperature = 0.0
    asked.sampling.seed = 0
    command = converters.command_from(asked, None)
    assert (command.sampling.temperature, command.sampling.seed, command.rl) == (0.0, 0, True)


def test_kinds_of_prompts() -> None:
    ids = pb.GenerateRequest(prompt=text_pb2.Prompt(token_ids=text_pb2.TokenIds(ids=[3, 4])))
    assert converters.command_from(ids, None).prompt == TokenIds([3, 4])
    message = text_pb2.Message(role="user", content="hi")
    talk = pb.GenerateRequest(prompt=text_pb2.Prompt(conversation=text_pb2.Conversation(messages=[message])))
    assert converters.command_from(talk, None).prompt == Conversation((Turn("user", "hi"),))
    assert converters.command_from(pb.GenerateRequest(), None).prompt is None


def test_a_completion_survives_the_way_out_and_back() -> None:
    completion = Completion(
        [3, 4], "de", [-0.5, -1.5], Finish.HANDED_BACK, (VersionSpan(1, 0, 1), VersionSpan(2, 1, 2))
    )
    answer = converters.outcome_to(Outcome("r", 1, [9], (completion,)), "run", "g0")
    assert answer.completions[0].finish_reason == text_pb2.FINISH_REASON_HANDED_BACK
    [back] = converters.command_from(pb.GenerateRequest(continue_from=answer.completions), None).continue_from
    assert (back.token_ids, back.sampling_logprobs, back.spans, back.text) == (
        completion.token_ids,
        completion.sampling_logprobs,
        completion.spans,
        "de",
    )


def test_every_state_and_finish_has_its_proto() -> None:
    for state in State:
        record = WeightUpdateRecord(3, 2, 0.5, 0.25, True, "why")
        status = Status("g", "run", state, 2, 1, 0, 8, 64, 10, "m", 1.5, (record,))
        answer = converters.status_to(status)
        assert answer.state == pb.GeneratorState.Value(f"GENERATOR_STATE_{state.name}")
        assert answer.recent_updates[0].rolled_back
    for finish in set(Finish) - {Finish.NOT_YET}:
        [completion] = converters.outcome_to(Outcome("r", 0, [], (Completion(finish=finish),)), "", "").completions
        assert completion.finish_reason == text_pb2.FinishReason.Value(f"FINISH_REASON_{finish.name}")
