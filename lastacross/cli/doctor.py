"""``doctor``: finds out what is wrong with a set-up."""

from dataclasses import asdict
from pathlib import Path

import click

from lastacross.cli.base import cli, takes_app
from lastacross.cli.connecting import opened_store
from lastacross.cli.showing import print_json, printable
from lastacross.processes import doctor


@cli.command(
    "doctor",
    epilog="""\b
Examples:
  lastacross doctor
  lastacross doctor --json | jq -r '.[].remedy'

Exits with status 1 if something is wrong, and with 2 if the configuration is invalid.""",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@takes_app
def _doctor(root: Path, as_json: bool) -> int:
    """Find out what is wrong with this set-up, and how to fix it."""
    with opened_store(root) as configuration:
        found = doctor.examine(configuration)
    if as_json:
        print_json([asdict(finding) for finding in found])
        return 1 if found else 0
    for finding in found:
        click.echo(f"{printable(finding.problem)}\n    fix: {printable(finding.remedy)}")
    if not found:
        click.echo("nothing is wrong")
    return 1 if found else 0
