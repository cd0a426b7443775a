"""Our web side, measured: ``python bench/web/web.py MEASURE``; the last line of its output is the result.

Measures: form, polls, streams, streams-shared, screen, quilt. bench/README.md tells what each is.
"""

import argparse
import functools
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.web import asking, pages, running, streaming

MEASURES: dict[str, Callable[[], dict[str, Any]]] = {
    "form": asking.form,
    "polls": asking.polls,
    "streams": streaming.streams,
    "streams-shared": functools.partial(streaming.streams, client_ids=10),
    "screen": pages.screen,
    "quilt": pages.quilt,
}


def main() -> None:
    """Make one measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the site"
    )
    arguments = parser.parse_args()
    running.SETTINGS.update(setting.split("=", 1) for setting in arguments.set)
    measure = arguments.measure
    found = MEASURES[measure]()
    versions = {name: importlib.metadata.version(name) for name in ("gunicorn", "redis", "SQLAlchemy")}
    print(
        json.dumps(
            {
                "peer": "lastacross",
                "measure": f"web-{measure}",
                **found,
                "settings": running.SETTINGS,
                "versions": versions,
            }
        )
    )


if __name__ == "__main__":
    main()
