"""Three nodes of a Redis Cluster on the loopback interface, each with a third of the slots."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import redis
from redis.crc import key_slot

from tests.support.processes import wait_until
from tests.support.redis_server import server_binary
from tests.support.site import free_port

NODES = 3
SLOTS = 16_384


@contextlib.contextmanager
def running_cluster(key: str) -> Iterator[str]:
    """Run a cluster, and yield the URL of the node that has this key's slot."""
    bounds = [SLOTS * number // NODES for number in range(NODES + 1)]
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(_running_node()) for _ in range(NODES)]
        for number, (_, node, _) in enumerate(nodes):
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        for port, _, bus in nodes[1:]:
            nodes[0][1].execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
        wait_until(lambda: all(_is_whole(node) for _, node, _ in nodes), 30, "the cluster")
        owner = max(number for number in range(NODES) if bounds[number] <= key_slot(key.encode()))
        yield f"redis://127.0.0.1:{nodes[owner][0]}/0"


@contextlib.contextmanager
def _running_node() -> Iterator[tuple[int, redis.Redis, int]]:
    """Run a node; yields its port, a client, and the port on which the nodes talk to each other."""
    port, bus = free_port(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="la-redis-"))
    command = [server_binary(), "--bind", "127.0.0.1", "--port", str(port), "--cluster-port", str(bus)]
    command += ["--cluster-enabled", "yes", "--dir", str(folder), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    try:
        wait_until(lambda: _answers(client), 20, "a node of the cluster")
        yield port, client, bus
    finally:
        client.close()
        process.terminate()
        process.wait(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(client: redis.Redis) -> bool:
    with contextlib.suppress(redis.ConnectionError):
        return bool(client.ping())
    return False


def _is_whole(client: redis.Redis) -> bool:
    return bool(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
