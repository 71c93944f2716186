"""`preceptor scale`: more or fewer pods of a stage on Kubernetes."""

from __future__ import annotations

import click

from preceptor.cli.output import json_option, print_json

STAGES = ("generation", "rollout", "reward", "feedback", "feedback-worker", "console")


@click.command()
@click.argument("stage", type=click.Choice(STAGES))
@click.argument("replicas", type=click.IntRange(0, 10_000))
@click.option("-n", "--namespace", default="preceptor", show_default=True, help="Where the release is installed.")
@click.option("--release", default="preceptor", show_default=True, help="Helm's name of the release.")
@json_option
def scale(stage: str, replicas: int, namespace: str, release: str, as_json: bool) -> None:
    """Give STAGE of an installed release this many pods, by the current context of your kubeconfig.

    Refused while an autoscaler owns the number. On a laptop: `preceptor up --scale STAGE=COUNT`.
    """
    from preceptor.cli.kubernetes_scale import Release
    from preceptor.common.kubernetes_api import connect

    scaled, before = Release(connect(), namespace, release).scale(stage, replicas)
    if as_json:
        print_json({"scaled": scaled, "before": before, "replicas": replicas})
    else:
        click.echo(f"{scaled}: {before} → {replicas}")
