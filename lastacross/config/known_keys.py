"""Lists the app.yaml keys of App Engine that have no effect here, both harmless and refused ones.

A harmless key causes one notice. A key that protected the application on App Engine but cannot protect it
here is a mistake, because ignoring it would silently remove that protection.
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
    "is not acted on: no console links to its pages; 'login: admin' of their handlers protects them"
)

APP_KEYS: dict[str, str] = {
    **dict.fromkeys(_APP.split(), ""),
    "admin_console": CONSOLE_PAGES,
    "backends": "is not acted on: backends.yaml describes them",
    "entrypoint": "is not acted on: 'lastacross web' and 'lastacross worker' start the processes",
    "libraries": "is not acted on: requirements.txt names them",
    "threadsafe": "is not acted on: requests always run in threads",
}
SCALING_KEYS: dict[str, str] = dict.fromkeys(_SCALING.split(), "")
INBOUND_SERVICES = frozenset(_INBOUND.split())

# App Engine's builtins, each of which was an included file. An empty text marks a supported builtin.
BUILTINS: dict[str, str] = {
    "admin_redirect": "is not here: /_ah/admin leads to no console",
    "appstats": "is not here: nothing records calls, and /_ah/stats answers 404",
    "datastore_admin": "is not here: /_ah/datastore_admin answers 404",
    "default": "",
    "deferred": "",
    "mapreduce": "is not here: /_ah/mapreduce answers 404",
    "remote_api": "is not here: /_ah/remote_api answers 404",
}

_ENDPOINTS = (
    "Google's proxy for Endpoints is not here, so nobody checks API keys and tokens: check them in the "
    "application, or in a proxy of your own, and remove the key"
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
        "there is no Endpoints server here, so its login and secure would not count: give the URL a handler "
        "of its own, and remove the key",
    ),
    Refusal(("endpoints_api_service",), _ENDPOINTS),
    Refusal(("beta_settings", "use_endpoints_api_management"), _ENDPOINTS, _is_on),
    Refusal(
        ("network", "instance_tag"),
        "Google's firewall rules for a tag do not count here: limit who reaches this machine in its own "
        "firewall, and remove the key",
    ),
    Refusal(
        ("network", "instance_ip_mode"),
        "app.yaml cannot take this machine's public address away here: set HOST to an internal address, and "
        "remove the key",
        lambda text: text == "internal",
    ),
    Refusal(
        ("vpc_access_connector", "egress_setting"),
        "requests to other servers do not go through Google's network here, past its firewall: limit them "
        "in this machine's own firewall, and remove the key",
        lambda text: text == "all-traffic",
    ),
    Refusal(
        ("threadsafe",),
        "requests run in threads here, at the same time: make the application's modules safe for that, and "
        "write 'threadsafe: true'",
        lambda text: not _is_on(text),
    ),
)
