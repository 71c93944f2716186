"""A project's raters on a terminal."""

from __future__ import annotations

from typing import Any

import click

from preceptor.api.feedback.v1 import quality_pb2
from preceptor.cli.output import print_table


def show_report(report: quality_pb2.RaterReport) -> None:
    """Agreement, then a row per rater, then what was found."""
    click.echo(
        f"{report.rankings} rankings, {report.shared_comparisons} comparisons ranked by several raters or gold; "
        f"Krippendorff's alpha {estimate(report.krippendorff_alpha)}, Fleiss' kappa {estimate(report.fleiss_kappa)}"
    )
    columns = ["rater", "rankings", "weight", "reliability", "gold", "consistent", "first wins", "seconds", "state"]
    print_table(columns, [_row(rater) for rater in report.raters])
    for rater in report.raters:
        for finding in rater.findings:
            click.echo(f"{rater.rater_id}: {finding}")
        if rater.state.paused:
            click.echo(f"{rater.rater_id} is paused by {rater.state.changed_by}: {rater.state.reason}")


def _row(rater: quality_pb2.RaterQuality) -> list[Any]:
    state = "paused" if rater.state.paused else "careless" if rater.careless else "active"
    shares = (rater.reliability, rater.gold_accuracy, rater.self_consistency, rater.left_wins)
    return [
        rater.rater_id,
        rater.rankings,
        f"{rater.weight:.2f}",
        *(estimate(share) for share in shares),
        f"{rater.median_seconds:.1f}",
        state,
    ]


def estimate(value: quality_pb2.Estimate) -> str:
    """0.62 [0.50, 0.70], or a dash where there is nothing to measure."""
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]" if value.n else "-"
