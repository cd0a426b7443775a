"""``admin``: signs in a site's administrator."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from lastacross import store
from lastacross.cli.base import cli, takes_app
from lastacross.cli.connecting import asking_redis
from lastacross.config import Config, read_secret_key
from lastacross.errors import ConfigError
from lastacross.processes import dev
from lastacross.webapp import administrator, boundary


@cli.group("admin")
def _admin() -> None:
    """Become the administrator."""


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
@takes_app
def _link(root: Path, url: str | None) -> None:
    """Print a link that signs a browser in as the administrator. It works once, within an hour.

    This command needs the site's SECRET_KEY and its Redis. The browser stays signed in for seven days;
    /_ah/sign-in has a button to sign out.
    """
    with asking_redis(root) as configuration:
        site_url = url or _site_url(configuration)
        code = administrator.new_code(_secret_key(configuration), store.current())
    click.echo(administrator.link(site_url, code))


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
