"""NetworkPolicies, evaluated: exactly the edges of the map are open."""

from typing import Any

import pytest

from tests.chart.rendering import containers, environment, of_kind, pods, render, switched

Edge = tuple[str, str, int]
# DESIGN.md sections 2 and 4.
DISCOVERED: set[Edge] = {
    ("rollout", "generation", 7100),  # by their records in Redis
    ("conductor", "generation", 7100),
    ("generation", "learner", 7140),  # WeightService.Watch
    ("console", "learner", 7140),  # LearnerService.GetStatus
    ("conductor", "learner", 7140),
    ("test", "generation", 7100),
    ("test", "reward", 7110),
}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items()


def opened(objects: list[dict[str, Any]], labels: dict[str, dict[str, str]]) -> set[Edge]:
    """(client, server, port) that both the client's egress and the server's ingress rules let through."""
    policies = of_kind(objects, "NetworkPolicy")

    def allowed(here: str, there: str, direction: str, peers_key: str) -> set[int]:
        mine = [p for p in policies if selects(p["spec"]["podSelector"], labels[here])]
        assert all(p["spec"]["policyTypes"] == ["Ingress", "Egress"] for p in mine)
        assert mine, f"{here} is open to all"
        found: set[int] = set()
        for policy in mine:
            for rule in policy["spec"].get(direction) or []:
                peers = rule.get(peers_key)
                if peers is None or any(selects(p["podSelector"], labels[there]) for p in peers if "podSelector" in p):
                    found |= {port["port"] for port in rule["ports"]}
        return found - {53, 443, 6443}

    return {
        (client, server, port)
        for client in labels
        for server in labels
        for port in allowed(client, server, "egress", "to") & allowed(server, client, "ingress", "from")
    }


def expected(objects: list[dict[str, Any]]) -> set[Edge]:
    """What the processes are configured to call: the addresses in their environment, and what discovery adds."""
    components = {component for component, _ in pods(objects)}
    edges = {edge for edge in DISCOVERED if {edge[0], edge[1]} <= components}
    for component, pod, container in containers(objects):
        for value in environment(component, pod, container).values():
            target, _, port = value.removeprefix("dns:///").partition("/")[0].rpartition(":")
            if value.startswith("dns:///"):
                edges.add((component, target.removeprefix("demo-preceptor-"), int(port)))
            elif value.startswith(("redis://", "postgresql://")):
                name, _, port = value.partition("@")[2].partition("/")[0].rpartition(":")
                edges.add((component, name.removeprefix("demo-preceptor-"), int(port)))
    return edges


WITHOUT_LOOPS = switched(conductor__enabled=False, generation={"runId": "", "modelDir": "/models/base"})


@pytest.mark.parametrize("changes", [{}, WITHOUT_LOOPS], ids=["all", "no loops"])
@pytest.mark.parametrize("preset", ["default", "cpu", "gpu"])
def test_exactly_the_map_is_open(preset: str, changes: dict[str, Any]) -> None:
    objects = render(preset, changes)
    labels = {component: pod["metadata"]["labels"] for component, pod in pods(objects)}
    open_edges, wanted = opened(objects, labels), expected(objects)
    if changes:
        wanted -= {edge for edge in wanted if "conductor" in edge}
    assert open_edges == wanted


def test_workers_of_one_job_meet_and_nobody_else_does() -> None:
    objects = render(changes={"learner": {"workers": 2}})
    labels = {component: pod["metadata"]["labels"] for component, pod in pods(objects)}
    assert {edge for edge in opened(objects, labels) if edge[2] == 29500} == {("learner", "learner", 29500)}


@pytest.mark.parametrize("peers", [[], [{"ipBlock": {"cidr": "10.0.0.1/32"}}]])
def test_the_conductor_alone_reaches_the_kubernetes_api(peers: list[dict[str, Any]]) -> None:
    objects = render(changes={"networkPolicy": {"kubernetesApiTo": peers}})
    found = {
        policy["metadata"]["name"].removeprefix("demo-preceptor-"): rule.get("to", [])
        for policy in of_kind(objects, "NetworkPolicy")
        for rule in policy["spec"].get("egress") or []
        if {port["port"] for port in rule["ports"]} == {443, 6443}
    }
    assert found == {"conductor": peers}


def test_every_pod_is_denied_by_default() -> None:
    objects = render()
    [deny] = [p for p in of_kind(objects, "NetworkPolicy") if p["metadata"]["name"].endswith("default-deny")]
    assert "ingress" not in deny["spec"]
    assert "egress" not in deny["spec"]
    for _, pod in pods(objects):
        assert selects(deny["spec"]["podSelector"], pod["metadata"]["labels"])


def test_outsiders_reach_what_they_were_let_to_alone() -> None:
    def outside(objects: list[dict[str, Any]]) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for policy in of_kind(objects, "NetworkPolicy"):
            name = policy["metadata"]["name"].removeprefix("demo-preceptor-")
            for rule in policy["spec"].get("ingress") or []:
                if any("podSelector" not in peer for peer in rule["from"]):
                    found.setdefault(name, set()).update(port["port"] for port in rule["ports"])
        return found

    assert outside(render()) == {}
    peer = [{"namespaceSelector": {"matchLabels": {"team": "x"}}}]
    assert outside(render(changes={"networkPolicy": {"consoleFrom": peer}})) == {"console": {8080}}
    assert outside(render(changes={"networkPolicy": {"feedbackFrom": peer}})) == {"feedback": {7120}}
    scraped = outside(render(changes={"networkPolicy": {"metricsFrom": peer}}))
    assert scraped == {
        component: {
            port["containerPort"]
            for container in pod["spec"]["containers"]
            for port in container["ports"]
            if port["name"].startswith("metrics")
        }
        for component, pod in pods(render())
        if component not in {"redis", "postgresql", "test"}
    }


def test_a_bucket_is_reached_by_those_who_use_artifacts() -> None:
    peer = [{"ipBlock": {"cidr": "10.9.0.0/16"}}]
    objects = render(changes={"artifacts": {"s3": {"url": "s3://b/x", "networkPeers": peer, "port": 9000}}})
    reaching = {
        policy["metadata"]["name"].removeprefix("demo-preceptor-")
        for policy in of_kind(objects, "NetworkPolicy")
        for rule in policy["spec"].get("egress") or []
        if {port["port"] for port in rule["ports"]} == {9000} and rule["to"] == peer
    }
    assert reaching == {"generation", "reward", "conductor", "learner"}


def test_external_stores_are_reached_by_those_who_use_them() -> None:
    policies = {
        p["metadata"]["name"].removeprefix("demo-preceptor-"): p for p in of_kind(render("production"), "NetworkPolicy")
    }

    def ports(name: str) -> set[int]:
        rules = policies[name]["spec"].get("egress") or []
        return {
            port["port"] for r in rules for port in r["ports"] if any("podSelector" not in p for p in r.get("to", []))
        }

    assert ports("feedback") == ports("feedback-worker") == ports("conductor") == {6379, 5432}
    assert ports("generation") == ports("rollout") == ports("reward") == ports("console") == ports("learner") == {6379}
    assert ports("test") == set()
