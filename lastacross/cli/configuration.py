"""``config`` and ``db``: commands for the YAML files, the environment and the datastore's tables."""

import json
import os
from pathlib import Path

import click

from lastacross import config, datastore, store
from lastacross.broker import deployments
from lastacross.cli import demo_data
from lastacross.cli.base import cli, takes_app
from lastacross.cli.connecting import asking_redis, configured
from lastacross.cli.queues import deployment_sentence
from lastacross.cli.showing import print_json
from lastacross.errors import StoreUnavailableError
from lastacross.processes import application, start_upload

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@cli.group("config")
def _config() -> None:
    """Check or show the configuration."""


@_config.command(
    "check",
    epilog="""\b
Examples:
  lastacross config check
  lastacross config check --production

Exits with status 2 if there are mistakes.""",
)
@click.option("--production", "is_production", is_flag=True, help="Also check SECRET_KEY and the hosts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@takes_app
def _config_check(root: Path, is_production: bool, as_json: bool) -> int:
    """Find all mistakes in the YAML files and the environment's variables."""
    findings = config.check(root, os.environ, is_production=is_production)
    if as_json:
        found = {
            name: list(map(str, getattr(findings, name)))
            for name in ("mistakes", "warnings", "notices", "files")
        }
        print_json(found)
        return 2 if findings.mistakes else 0
    for mistake in findings.mistakes:
        click.echo(str(mistake), err=True)
    for notice in findings.notices:
        click.echo(f"notice: {notice}")
    for warning in findings.warnings:
        click.echo(f"warning: {warning}")
    if findings.mistakes:
        return 2
    click.echo(f"{', '.join(findings.files)} and the environment are valid")
    return 0


@_config.command("show", epilog="Example: lastacross config show --json | jq .PORT.value")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@takes_app
def _config_show(root: Path, as_json: bool) -> None:
    """Show every setting and where its value came from, and what is deployed; secrets are hidden."""
    rows = config.describe(config.load(root, os.environ, needs_secret_key=False))
    rows.append(("deployed", _deployed(root), "Redis"))
    if as_json:
        shown = {name: {"value": value, "source": source} for name, value, source in rows}
        click.echo(json.dumps(shown, indent=2))
        return
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, source in rows:
        click.echo(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}")


def _deployed(root: Path) -> str:
    """Say what is deployed, and which of the folder's files differ from it."""
    try:
        with asking_redis(root) as configuration:
            sentence = deployment_sentence(deployments.read(store.current()))
            files = start_upload.different_files(store.current(), configuration)
    except StoreUnavailableError as error:
        return f"unknown: {error}"
    return f"{sentence}; this folder's {', '.join(files)} differ" if files else sentence


@cli.group("db")
def _db() -> None:
    """Manage the datastore."""


@_db.command("upgrade", epilog="Example: DATABASE_URL=postgresql://user@host/name lastacross db upgrade")
@_JSON
@takes_app
def _db_upgrade(root: Path, as_json: bool) -> None:
    """Update the engine's and the application's tables."""
    configuration = configured(root, needs_secret_key=False)
    upgraded = datastore.upgrade(configuration.settings.database_url, configuration.root)
    if as_json:
        print_json([{"owner": done.owner, "revisions": list(done.revisions)} for done in upgraded])
        return
    for done in upgraded:
        if done.revisions:
            click.echo(f"{done.owner}: ran {', '.join(done.revisions)}")
    click.echo(f"the datastore {_shown_url(configuration)} is up to date")


@_db.command("revision", epilog="Example: lastacross db revision 'orders have a currency'")
@click.argument("message")
@click.option("--allow-drop", is_flag=True, help="Write the migration even if it drops a table.")
@_JSON
@takes_app
def _db_revision(root: Path, message: str, allow_drop: bool, as_json: bool) -> None:
    """Write the application's next migration from the differences between its models and the datastore.

    Run `lastacross db upgrade` first, so that only new changes are included. [tool.lastacross] in
    pyproject.toml names the modules with models; the default is the modules of app.yaml's scripts, and
    models.py.
    """
    configuration = configured(root, needs_secret_key=False)
    models = config.read_project(root, configuration.app).models
    application.prepare_process(configuration)
    url = configuration.settings.database_url
    path = datastore.revision(message, configuration.root, url, models=models, allow_drop=allow_drop)
    if as_json:
        print_json({"path": path and str(path.relative_to(configuration.root))})
    elif path is None:
        click.echo(
            f"nothing was written: the datastore {_shown_url(configuration)} already matches the models"
        )
    else:
        click.echo(f"wrote {path.relative_to(configuration.root)}: read it, then run `lastacross db upgrade`")


def _shown_url(configuration: config.Config) -> str:
    [shown] = [value for name, value, _ in config.describe(configuration) if name == "DATABASE_URL"]
    return shown


@_db.command("demo", epilog="Example: lastacross db upgrade && lastacross db demo")
@_JSON
@takes_app
def _db_demo(root: Path, as_json: bool) -> None:
    """Load the application's demo data; existing data stays unchanged.

    It calls load() of the application's demo.py, or the function named in [tool.lastacross] of
    pyproject.toml. The command may be repeated, interrupted, or run twice at the same time.
    """
    text = demo_data.load(configured(root, needs_secret_key=False))
    if as_json:
        print_json({"result": text})
    else:
        click.echo(text)
