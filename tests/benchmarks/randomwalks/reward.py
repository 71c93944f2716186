"""Random walks, after trlX's example: a directed graph of 21 nodes, and how near to the shortest a written path is.

A path is a string of letters, a node each; node "a" is the goal. `optimality` is the reward function of the rl run.
"""

from collections import deque
from functools import cache

import numpy as np

NODES, MAX_LENGTH, GOAL = 21, 10, 0
EDGE_PROBABILITY = 0.1
GRAPH_SEED = 1000


@cache
def graph(seed: int = GRAPH_SEED) -> np.ndarray:
    """Returns the edges [NODES, NODES], bool: no self-loops, an edge out of every node, the goal absorbing."""
    draws = np.random.RandomState(seed)
    while True:
        edges = draws.rand(NODES, NODES) > 1 - EDGE_PROBABILITY
        np.fill_diagonal(edges, False)
        if (edges.sum(axis=1) > 0).all():
            edges[GOAL] = False
            edges[GOAL, GOAL] = True
            return edges


@cache
def shortest_lengths() -> dict[int, int]:
    """Returns the nodes on each node's shortest path to the goal, both ends counted; unreachable nodes are out."""
    edges, lengths, queue = graph(), {GOAL: 1}, deque([GOAL])
    while queue:
        node = queue.popleft()
        for before in np.flatnonzero(edges[:, node]).tolist():
            if before not in lengths:
                lengths[before] = lengths[node] + 1
                queue.append(before)
    return lengths


def letter(node: int) -> str:
    """Returns the node's letter."""
    return chr(ord("a") + node)


def starts() -> list[str]:
    """Returns the letters of the nodes from which the goal can be reached in less than MAX_LENGTH nodes."""
    return [letter(n) for n, length in sorted(shortest_lengths().items()) if n != GOAL and length < MAX_LENGTH]


def path_optimality(path: str) -> float:
    """Returns 1 for a shortest path to the goal, 0 for one that leaves the graph or never arrives, linear between."""
    nodes = [ord(symbol) - ord("a") for symbol in path[:MAX_LENGTH]]
    if not nodes or not 0 <= nodes[0] < NODES:
        return 0.0
    length = MAX_LENGTH
    for place, node in enumerate(nodes):
        if not 0 <= node < NODES or (place and not graph()[nodes[place - 1], node]):
            break
        if node == GOAL:
            length = place + 1
            break
    best = min(shortest_lengths().get(nodes[0], MAX_LENGTH), MAX_LENGTH)
    return (MAX_LENGTH - length) / (MAX_LENGTH - best) if best < MAX_LENGTH else 0.0


def optimality(*, prompts: list[str], completions: list[str], **_: object) -> list[float]:
    """Reward function: the optimality of prompt + completion, in [0, 1]."""
    return [path_optimality(prompt + completion) for prompt, completion in zip(prompts, completions, strict=True)]
