"""``admin``: decides who may sign in, and signs in a site's administrator."""

import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from lastacross import accounts, store
from lastacross.cli.base import cli, complain, takes_app
from lastacross.cli.connecting import asking_redis, opened_store, record
from lastacross.cli.showing import instant, print_json, print_table
from lastacross.config import Config, read_secret_key
from lastacross.errors import AccountError, ConfigError
from lastacross.processes import dev
from lastacross.webapp import administrator, boundary

_MAX_LINE_CHARACTERS = 10_000
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@cli.group("admin")
def _admin() -> None:
    """Decide who may sign in, or become the administrator."""


class _SiteUrl(click.ParamType[str]):
    """The address of a site, which consists of a scheme and a host, with or without a port."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            parts = urlsplit(value)
        except ValueError:
            parts = urlsplit("")
        is_whole = parts.scheme in ("http", "https") and boundary.split_host(parts.netloc) is not None
        if not is_whole or parts.path not in ("", "/") or parts.query or parts.fragment:
            self.fail(f"{value!r} is not an address such as https://shop.example", param, ctx)
        return f"{parts.scheme}://{parts.netloc}"


@_admin.command("link", epilog="Example: lastacross admin link --url https://shop.example")
@click.option(
    "--url",
    type=_SiteUrl(),
    help="The site's address; by default that of the running `lastacross dev`, "
    "or https:// and the first name of LASTACROSS_ALLOWED_HOSTS.",
)
@_JSON
@takes_app
def _link(root: Path, url: str | None, as_json: bool) -> None:
    """Print a link that signs a browser in as the administrator. It works once, within an hour.

    This command needs the site's SECRET_KEY and its Redis. The browser stays signed in for seven days;
    /_ah/sign-in has a button to sign out.
    """
    with asking_redis(root) as configuration:
        site_url = url or _site_url(configuration)
        code = administrator.new_code(_secret_key(configuration), store.current())
    link = administrator.link(site_url, code)
    if as_json:
        print_json({"link": link})
    else:
        click.echo(link)


def _site_url(configuration: Config) -> str:
    running = dev.site_url(configuration.settings.data_dir)
    if running is not None:
        return running
    for host in configuration.settings.allowed_hosts:
        if host != boundary.ANY_HOST and not host.startswith("."):
            return f"https://{host}"
    raise click.UsageError(
        "--url is required, such as https://shop.example, because LASTACROSS_ALLOWED_HOSTS names no host"
    )


def _secret_key(configuration: Config) -> str:
    """The SECRET_KEY from the environment, or else from the running ``lastacross dev``."""
    settings = configuration.settings
    key = settings.secret_key
    if not key and dev.site_url(settings.data_dir) is not None:
        key = read_secret_key(settings.data_dir) or ""
    if not key:
        raise ConfigError("SECRET_KEY is not set: run this command with the site's SECRET_KEY and REDIS_URL")
    return key


@_admin.command(
    "set-password",
    epilog="""\b
Examples:
  lastacross admin set-password anna
  pass show site/ben | lastacross admin set-password ben --role viewer""",
)
@click.argument("name", metavar="NAME")
@click.option(
    "--role",
    type=click.Choice(accounts.ROLES),
    help="admin may change things, viewer only looks; by default the account's current role, or admin.",
)
@_JSON
@takes_app
def _set_password(root: Path, name: str, role: accounts.Role | None, as_json: bool) -> None:
    """Let a person sign in at /_ah/signin with a password, or change the person's password or role.

    The password is asked for twice, or read from standard input as one line; it needs at least 12 characters.
    A new password ends the account's sessions within five seconds.
    """
    with opened_store(root):
        given = accounts.set_password(name, _new_password(), role)
        name = name.strip().lower()
        record("account.set_password", [name])
    if as_json:
        print_json({"name": name, "role": given})
    else:
        click.echo(f"{name} may now sign in as {'an admin' if given == 'admin' else 'a viewer'}")


def _new_password() -> str:
    """The password that the user types twice, or the first line of standard input."""
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt="The same again", err=True))
    line = sys.stdin.readline(_MAX_LINE_CHARACTERS)
    if not line.strip("\r\n"):
        raise AccountError("there is no password on standard input; write it as one line")
    return line.rstrip("\r\n")


@_admin.command("list", epilog="Example: lastacross admin list --json")
@_JSON
@takes_app
def _list(root: Path, as_json: bool) -> None:
    """Show the people who may sign in with a password."""
    with opened_store(root):
        rows = [(each.name, each.role, instant(each.changed_at)) for each in accounts.list_all()]
    if as_json:
        print_json([{"name": name, "role": role, "password_set": at} for name, role, at in rows])
    elif rows:
        print_table(("NAME", "ROLE", "PASSWORD SET"), rows)
    else:
        click.echo(
            "nobody can sign in with a password; add somebody with `lastacross admin set-password NAME`"
        )


@_admin.command("remove", epilog="Example: lastacross admin remove ben")
@click.argument("name", metavar="NAME")
@_JSON
@takes_app
def _remove(root: Path, name: str, as_json: bool) -> int:
    """Remove a person's account, which ends its sessions within five seconds."""
    with opened_store(root):
        if not accounts.remove(name):
            complain(f"there is no account {name!r}; `lastacross admin list` shows the names")
            return 1
        name = name.strip().lower()
        record("account.remove", [name])
    if as_json:
        print_json({"name": name, "is_removed": True})
    else:
        click.echo(f"{name} can no longer sign in")
    return 0
