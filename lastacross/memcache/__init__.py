"""App Engine's ``memcache``, a cache shared by all processes.

The functions use one default ``Client``. ``gets`` and ``cas`` exist only as methods of ``Client``, because
a client remembers versions; create a client for each request that uses these methods.
"""

from lastacross.memcache.calls import create_rpc
from lastacross.memcache.client import (
    DELETE_ITEM_MISSING,
    DELETE_NETWORK_FAILURE,
    DELETE_SUCCESSFUL,
    ERROR,
    EXISTS,
    NOT_STORED,
    STAT_BYTE_HITS,
    STAT_BYTES,
    STAT_HITS,
    STAT_ITEMS,
    STAT_MISSES,
    STAT_OLDEST_ITEM_AGES,
    STORED,
    Client,
    ItemWithTimestamps,
)
from lastacross.memcache.encoding import MAX_KEY_SIZE, MAX_VALUE_SIZE, server_key
from lastacross.rpc import Result

__all__ = [
    "DELETE_ITEM_MISSING",
    "DELETE_NETWORK_FAILURE",
    "DELETE_SUCCESSFUL",
    "ERROR",
    "EXISTS",
    "MAX_KEY_SIZE",
    "MAX_VALUE_SIZE",
    "NOT_STORED",
    "STAT_BYTES",
    "STAT_BYTE_HITS",
    "STAT_HITS",
    "STAT_ITEMS",
    "STAT_MISSES",
    "STAT_OLDEST_ITEM_AGES",
    "STORED",
    "Client",
    "ItemWithTimestamps",
    "Result",
    "add",
    "add_multi",
    "add_multi_async",
    "cache",
    "create_rpc",
    "debuglog",
    "decr",
    "decr_async",
    "delete",
    "delete_multi",
    "delete_multi_async",
    "disconnect_all",
    "flush_all",
    "flush_all_async",
    "forget_dead_hosts",
    "get",
    "get_multi",
    "get_multi_async",
    "get_stats",
    "get_stats_async",
    "incr",
    "incr_async",
    "offset_multi",
    "offset_multi_async",
    "peek",
    "peek_multi",
    "replace",
    "replace_multi",
    "replace_multi_async",
    "server_key",
    "set",
    "set_multi",
    "set_multi_async",
    "set_servers",
    "setup_client",
    "values_of",
]

_client = Client()

set_servers = _client.set_servers
disconnect_all = _client.disconnect_all
forget_dead_hosts = _client.forget_dead_hosts
debuglog = _client.debuglog
get = _client.get
get_multi = _client.get_multi
get_multi_async = _client.get_multi_async
peek = _client.peek
peek_multi = _client.peek_multi
set = _client.set
add = _client.add
replace = _client.replace
set_multi = _client.set_multi
set_multi_async = _client.set_multi_async
add_multi = _client.add_multi
add_multi_async = _client.add_multi_async
replace_multi = _client.replace_multi
replace_multi_async = _client.replace_multi_async
delete = _client.delete
delete_multi = _client.delete_multi
delete_multi_async = _client.delete_multi_async
incr = _client.incr
incr_async = _client.incr_async
decr = _client.decr
decr_async = _client.decr_async
offset_multi = _client.offset_multi
offset_multi_async = _client.offset_multi_async
flush_all = _client.flush_all
flush_all_async = _client.flush_all_async
get_stats = _client.get_stats
get_stats_async = _client.get_stats_async

# Not part of App Engine's API: for packages whose own scripts read cache entries.
values_of = _client.values_of


def setup_client(client_obj: Client) -> None:
    """Let the functions of this module use another client, for example one with ``pid`` and ``pload`` hooks.

    Names that another module has already imported (``from lastacross.memcache import get``) keep the previous
    client, as on App Engine. Long tasks keep a client of their own.
    """
    global _client
    methods = {name: getattr(client_obj, name) for name in __all__ if hasattr(_client, name)}
    _client = client_obj
    globals().update(methods)
