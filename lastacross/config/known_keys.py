"""Lists the app.yaml keys of App Engine that have no effect here, both harmless and refused ones.

A harmless key causes one notice. A key that protected the application on App Engine but cannot protect it
here is an error, because ignoring it would silently remove that protection.
"""

from collections.abc import Callable
from dataclasses import dataclass

# Each harmless key maps to the text of its notice; an empty string stands for the usual notice.
_APP = """
api_config api_version app_engine_apis application auto_id_policy backends beta_settings build_env_variables
code_lock derived_file_type endpoints_api_service env flexible_runtime_settings health_check instance_class
java_precompiled liveness_check main major_version minor_version network nobuild_files pagespeed project
python_precompiled readiness_check resources runtime runtime_channel runtime_config service_account
source_language standard_websocket version vm vm_health_check vm_settings vpc_access_connector zones
"""

_SCALING = """
cool_down_period_sec cpu_utilization custom_metrics idle_timeout max_idle_instances max_instances
max_num_instances max_pending_latency min_idle_instances min_instances min_num_instances
min_pending_latency standard_scheduler_settings target_concurrent_requests target_cpu_utilization
target_disk_read_bytes_per_sec target_disk_read_ops_per_sec target_disk_write_bytes_per_sec
target_disk_write_ops_per_sec target_network_received_bytes_per_sec
target_network_received_packets_per_sec target_network_sent_bytes_per_sec
target_network_sent_packets_per_sec target_request_count_per_sec target_throughput_utilization
"""

_INBOUND = """
mail mail_bounce rest channel_presence xmpp_error xmpp_message xmpp_presence xmpp_subscribe
warmup
"""

CONSOLE_PAGES = (
    "has no effect here, because no console links to its pages; 'login: admin' in their handlers protects "
    "them"
)

APP_KEYS: dict[str, str] = {
    **dict.fromkeys(_APP.split(), ""),
    "admin_console": CONSOLE_PAGES,
    "backends": "has no effect here; describe the backends in backends.yaml",
    "entrypoint": "has no effect here; 'lastacross web' and 'lastacross worker' start the processes",
    "libraries": "has no effect here; list the packages in requirements.txt",
    "threadsafe": "has no effect here; requests always run in threads",
}
SCALING_KEYS: dict[str, str] = dict.fromkeys(_SCALING.split(), "")
INBOUND_SERVICES = frozenset(_INBOUND.split())

# App Engine's builtins, each of which was an included file. An empty text marks a supported builtin.
BUILTINS: dict[str, str] = {
    "admin_redirect": "has no effect: the console is at /_ah/admin/",
    "appstats": "is not available: nothing records calls, and /_ah/stats returns 404",
    "datastore_admin": "is not available: /_ah/datastore_admin returns 404",
    "default": "",
    "deferred": "",
    "mapreduce": "is not available: /_ah/mapreduce returns 404",
    "remote_api": "is not available: /_ah/remote_api returns 404",
}

_ENDPOINTS = (
    "Google's proxy for Endpoints is not available here, so nothing checks API keys and tokens; check them "
    "in the application or in your own proxy, and remove this key"
)


def _is_on(text: str) -> bool:
    return text.lower() not in {"false", "no", "off", "n", "f", "0"}


@dataclass(frozen=True)
class Refusal:
    """A key of app.yaml, at the top level or nested, that must not be ignored.

    ``is_for`` tells whether a scalar value must be refused. A mapping or a list is always refused.
    """

    path: tuple[str, ...]
    because: str
    is_for: Callable[[str], bool] = lambda text: True


REFUSALS = (
    Refusal(
        ("api_config",),
        "there is no Endpoints server here, so its login and secure would have no effect; give the URL a "
        "handler of its own, and remove this key",
    ),
    Refusal(("endpoints_api_service",), _ENDPOINTS),
    Refusal(("beta_settings", "use_endpoints_api_management"), _ENDPOINTS, _is_on),
    Refusal(
        ("network", "instance_tag"),
        "Google's firewall rules for a tag do not apply here; restrict access to this machine in its own "
        "firewall, and remove this key",
    ),
    Refusal(
        ("network", "instance_ip_mode"),
        "app.yaml cannot remove this machine's public address; set HOST to an internal address, and remove "
        "this key",
        lambda text: text == "internal",
    ),
    Refusal(
        ("vpc_access_connector", "egress_setting"),
        "requests to other servers do not pass through Google's network and its firewall here; restrict them "
        "in this machine's own firewall, and remove this key",
        lambda text: text == "all-traffic",
    ),
    Refusal(
        ("threadsafe",),
        "requests run concurrently in threads here; make the application's modules thread-safe, and write "
        "'threadsafe: true'",
        lambda text: not _is_on(text),
    ),
)
