"""A proxy in front of Redis that delays what passes it: ``python -m bench.far PORT SECONDS``.

It prints its own port. A connection's bytes arrive in their order, each so many seconds late.
"""

import asyncio
import selectors
import sys
from functools import partial


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    while data := await reader.read(1 << 16):
        loop.call_later(seconds, writer.write, data)
    loop.call_later(seconds, writer.close)


async def _accept(
    port: int, seconds: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(
        _pass_on(reader, far_writer, seconds),
        _pass_on(far_reader, writer, seconds),
        return_exceptions=True,
    )


async def _serve(port: int, seconds: float) -> None:
    server = await asyncio.start_server(partial(_accept, port, seconds), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main(arguments: list[str]) -> None:
    """Serve until a signal ends this process."""
    # select() waits for microseconds, where epoll() would round a delay up to whole milliseconds.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    loop.run_until_complete(_serve(int(arguments[0]), float(arguments[1])))


if __name__ == "__main__":
    main(sys.argv[1:])
