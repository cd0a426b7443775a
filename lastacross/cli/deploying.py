"""``deploy``: the release step of an application."""

import os
from pathlib import Path

import click

from lastacross import config
from lastacross.cli.base import cli, complain, takes_app
from lastacross.cli.connecting import asking_redis
from lastacross.cli.showing import instant, print_json
from lastacross.config import Config
from lastacross.processes import deploying


@cli.command(
    "deploy",
    epilog="""\b
Examples:
  lastacross deploy          in the release step, before the new code starts
  lastacross deploy --yes    even if it stops work that has begun""",
)
@click.option(
    "--yes", "is_sure", is_flag=True, help="Deploy even if queues with tasks or running jobs vanish"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@takes_app
def _deploy(root: Path, is_sure: bool, as_json: bool) -> int:
    """Put this folder's queue.yaml, cron.yaml, dispatch.yaml and backends.yaml into effect.

    First it checks the configuration as `config check --production` does, and updates the tables as `db
    upgrade` does. All machines use the deployed files, whatever their own folders contain.
    """
    findings = config.check(root, os.environ, is_production=True)
    for mistake in findings.mistakes:
        complain(str(mistake))
    if findings.mistakes:
        return 2
    for warning in findings.warnings:
        complain(f"warning: {warning}")
    with asking_redis(root) as configuration:
        sentences = [] if is_sure else list(deploying.harm_of(configuration).sentences())
        for sentence in sentences:
            complain(sentence)
        if sentences:
            complain("nothing was deployed; use --yes to deploy anyway")
            return 1
        deployed = deploying.deploy(configuration)
    if as_json:
        print_json(_for_programs(configuration, deployed))
    else:
        _show(configuration, deployed)
    return 0


def _for_programs(configuration: Config, deployed: deploying.Deployed) -> dict[str, object]:
    return {
        "deployed_at": instant(deployed.deployment.at),
        "deployed_by": deployed.deployment.by,
        "queues": sorted(deployed.deployment.upload.queues),
        "jobs": [entry.name for entry in configuration.cron],
        "changed_files": list(deployed.files),
        "revisions": {owner: list(names) for owner, names in deployed.revisions},
    }


def _show(configuration: Config, deployed: deploying.Deployed) -> None:
    for owner, names in deployed.revisions:
        click.echo(f"{owner}: ran {', '.join(names)}")
    queues = len(deployed.deployment.upload.queues)
    own = "" if configuration.has_queue_file else " (the deployed ones, since this folder has no queue.yaml)"
    click.echo(f"deployed {queues} {'queue' if queues == 1 else 'queues'}{own}")
    if configuration.has_cron_file:
        jobs = len(configuration.cron)
        click.echo(f"deployed {jobs} cron {'job' if jobs == 1 else 'jobs'}")
    else:
        click.echo("kept the deployed cron jobs, because this folder has no cron.yaml")
