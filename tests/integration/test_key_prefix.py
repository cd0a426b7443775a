"""RQ_KEY_PREFIX: the scripts with other names, and on a Redis Cluster, where a node has only its slots."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from lastacross import store
from tests.support.redis_cluster import running_cluster
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    with running_cluster("{la}") as url:
        yield url


def run_tests(prefix: str, redis_url: str, *choice: str) -> str:
    """Run tests in a process of their own, because the engine makes its names when it is imported."""
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "RQ_KEY_PREFIX": prefix,
        "LASTACROSS_TEST_REDIS": redis_url,
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *choice]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout


def test_an_empty_prefix_counts_as_none() -> None:
    command = [
        sys.executable,
        "-c",
        "import lastacross, rq; from lastacross import store; print(store.RECORD_PREFIX)",
    ]
    environ = {**os.environ, "RQ_KEY_PREFIX": " "}

    assert subprocess.run(command, env=environ, capture_output=True, text=True).stdout == "rq:job:\n"


# Every script, once; `make test-long` has all their tests.
FEW = ("tests/lua/test_places.py", "tests/lua/test_create_batch.py", "tests/integration/test_rq_tools.py")
ALL = ("tests/lua", "tests/integration/test_rq_tools.py")
CHOICES = [pytest.param(FEW, id="a few"), pytest.param(ALL, id="all", marks=pytest.mark.long)]


@pytest.mark.parametrize("choice", CHOICES)
def test_two_installations_share_a_redis(redis_server: RedisServer, choice: tuple[str, ...]) -> None:
    assert " passed" in run_tests("team1", redis_server.url, *choice)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_hash_tag_keeps_all_keys_on_one_node_of_a_cluster(
    cluster_url: str, choice: tuple[str, ...]
) -> None:
    assert " passed" in run_tests("{la}", cluster_url, *choice)


def test_a_node_of_a_cluster_refuses_keys_without_the_tag(cluster_url: str) -> None:
    """Otherwise the test above would prove nothing."""
    with redis.Redis.from_url(cluster_url) as client, pytest.raises(redis.exceptions.MovedError):
        # Their slots are spread over all nodes.
        _ = [client.exists(f"{store.OWN}{number}") for number in range(100)]
