"""A Redis master, its replicas, and three sentinels that watch them, on ports of the loopback interface."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.processes import wait_until
from tests.support.redis_server import server_binary
from tests.support.site import free_port

NAME = "mymaster"
SENTINELS = 3
# Sentinel considers a server down after this time.
DOWN_AFTER_MS = 500
FAILOVER_TIMEOUT_MS = 2000


class Node:
    """One server or sentinel with a folder of its own.

    Args:
        folder: the folder for its configuration and data.
        config: the lines of its configuration.
        arguments: further arguments, such as ``--sentinel``.
        password: the password that clients must give, or None.
    """

    def __init__(
        self,
        folder: Path,
        config: Sequence[str],
        arguments: Sequence[str] = (),
        *,
        password: str | None = None,
    ) -> None:
        self.port = free_port()
        self._file = folder / f"{self.port}.conf"
        lines = [f"port {self.port}", "bind 127.0.0.1", f'dir "{folder}"', *config]
        if password is not None:
            lines.append(f"requirepass {password}")
        self._file.write_text("\n".join(lines) + "\n")
        self._arguments = arguments
        self._options: dict[str, Any] = {
            "port": self.port,
            "password": password,
            "socket_timeout": 2,
            "decode_responses": True,
            # Sentinel ends all connections of a master that becomes a replica.
            "retry": Retry(NoBackoff(), 2),
        }
        self.client: Any = redis.Redis(**self._options)
        self.process: subprocess.Popen[bytes] | None = None

    def speak_tls(self, certificate: Path) -> None:
        """Accept TLS only; to be called before the start."""
        self._file.write_text(self._file.read_text().replace("port ", "port 0\ntls-port ", 1))
        self.client = redis.Redis(**self._options, ssl=True, ssl_ca_certs=str(certificate))

    def start(self) -> None:
        """Start it, or start it again, and wait until it answers."""
        self.process = subprocess.Popen(
            [server_binary(), str(self._file), *self._arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self.is_answering, 20, f"the server on port {self.port}")

    def is_answering(self) -> bool:
        """Whether it answers PING."""
        with contextlib.suppress(redis.RedisError):
            return bool(self.client.ping())
        return False

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Trio:
    """Three sentinels with a master and its replicas.

    Args:
        folder: a folder for all files.
        replicas: the number of replicas.
        min_replicas: the number of replicas without which a master refuses writes.
        server_config: further lines for the configuration of both servers.
        sentinel_config: further lines for the configuration of each sentinel.
    """

    def __init__(
        self,
        folder: Path,
        replicas: int = 1,
        min_replicas: int = 0,
        server_config: Sequence[str] = (),
        sentinel_config: Sequence[str] = (),
    ) -> None:
        self.min_replicas = min_replicas
        common = ["save ''", "appendonly yes", f"min-replicas-to-write {min_replicas}"]
        common += ["repl-diskless-sync-delay 0", *server_config]
        self.servers = [
            Node(folder, [*common, f"dbfilename {number}.rdb", f"appenddirname aof{number}"])
            for number in range(1 + replicas)
        ]
        self.sentinels = [
            Node(folder, [*self._watching(), *sentinel_config], ["--sentinel"]) for _ in range(SENTINELS)
        ]

    def _watching(self) -> list[str]:
        return [
            f"sentinel monitor {NAME} 127.0.0.1 {self.servers[0].port} 2",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {NAME} {FAILOVER_TIMEOUT_MS}",
        ]

    @property
    def url(self) -> str:
        """The REDIS_URL of this Redis."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{hosts}/{NAME}/0"

    @property
    def master(self) -> Node:
        """The server that all sentinels name."""
        wait_until(lambda: len(self._ports()) == 1, 30, "an agreement of the sentinels")
        [port] = self._ports()
        return next(each for each in self.servers if each.port == port)

    def start(self) -> None:
        """Start everything; a failover succeeds once it has settled."""
        for each in self.servers:
            each.start()
        for each in self.servers[1:]:
            each.client.replicaof("127.0.0.1", self.servers[0].port)
        for each in self.sentinels:
            each.start()

    def kill_all(self) -> None:
        """End everything."""
        for each in [*self.sentinels, *self.servers]:
            each.client.close()
            each.kill()

    def fail_over(self) -> Node:
        """Replace the master on purpose; returns the new one, which has just been promoted."""
        replicas = self._replicas()
        self.sentinels[0].client.execute_command("SENTINEL", "FAILOVER", NAME)
        return self._promoted(replicas)

    def fail_over_fenced(self) -> Node:
        """Like ``fail_over``, but let the master refuse writes first (docs/operations.md)."""
        old = self.master
        old.client.config_set("min-replicas-to-write", 100)
        assert old.client.wait(1, 5000) >= 1
        return self.fail_over()

    def kill_master(self) -> Node:
        """Kill the master; returns the new one, which has just been promoted."""
        replicas = self._replicas()
        self.master.kill()
        return self._promoted(replicas)

    def start_killed(self) -> None:
        """Start every server that was killed; the sentinels make it a replica."""
        for each in self.servers:
            if not each.is_answering():
                each.start()

    def takes_writes(self, master: Node) -> bool:
        """Whether the server has as many replicas as it must have."""
        return int(master.client.info("replication").get("min_slaves_good_slaves", 0)) >= self.min_replicas

    def wait_for_a_follower(self) -> None:
        """Wait until another server follows the master, so that its end would lose little."""
        master = self.master
        wait_until(lambda: master.client.info("replication")["connected_slaves"] > 0, 30, "a follower")

    def wait_until_settled(self) -> None:
        """Wait until all sentinels know each other and the replicas follow the master; end any fence."""
        wait_until(self._is_settled, 60, "a master with a replica and three sentinels")
        for each in self.servers:
            each.client.config_set("min-replicas-to-write", self.min_replicas)

    def _replicas(self) -> list[Node]:
        # A master that was replaced stays one for a while.
        return [each for each in self.servers if each.is_answering() and each.client.role()[0] == "slave"]

    def _promoted(self, replicas: Sequence[Node]) -> Node:
        def masters() -> list[Node]:
            return [each for each in replicas if each.client.role()[0] == "master"]

        wait_until(masters, 30, "the promotion")
        return masters()[0]

    def _ports(self) -> set[int]:
        return {int(each.client.sentinel_get_master_addr_by_name(NAME)[1]) for each in self.sentinels}

    def _is_settled(self) -> bool:
        wanted = len(self.servers) - 1
        for each in self.sentinels:
            state = each.client.sentinel_master(NAME)
            replicas = each.client.sentinel_slaves(NAME)
            are_up = all(map(_is_up, replicas))
            if (state["flags"], state["num-other-sentinels"], len(replicas)) != (
                "master",
                2,
                wanted,
            ) or not are_up:
                return False
        if len(self._ports()) != 1:
            return False
        roles = [each.client.role() for each in self.servers if each is not self.master]
        return all(role[0] == "slave" and role[3] == "connected" for role in roles)


def _is_up(replica: Any) -> bool:
    return bool(replica["flags"] == "slave" and replica["master-link-status"] == "ok")


@contextlib.contextmanager
def running_trio(
    replicas: int = 1,
    min_replicas: int = 0,
    server_config: Sequence[str] = (),
    sentinel_config: Sequence[str] = (),
) -> Iterator[Trio]:
    """Run them in a new folder; the arguments are like ``Trio``'s."""
    folder = Path(tempfile.mkdtemp(prefix="la-trio-"))
    trio = Trio(folder, replicas, min_replicas, server_config, sentinel_config)
    try:
        trio.start()
        yield trio
    finally:
        trio.kill_all()
        shutil.rmtree(folder, ignore_errors=True)
