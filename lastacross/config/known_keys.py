"""Keys that App Engine's app.yaml took and that have nothing to act on here: one notice each.

A key maps to what to say of it; empty is the usual sentence.
"""

_APP = """
admin_console api_config api_version app_engine_apis application auto_id_policy backends beta_settings
build_env_variables code_lock derived_file_type endpoints_api_service env health_check includes
instance_class java_precompiled liveness_check main major_version minor_version network nobuild_files
project python_precompiled readiness_check resources runtime runtime_channel runtime_config
service_account skip_files source_language standard_websocket threadsafe version vm vm_health_check
vm_settings vpc_access_connector zones
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

_HANDLER = "api_endpoint application_readable position redirect_http_response_code"

_INBOUND = """
mail mail_bounce rest channel_presence xmpp_error xmpp_message xmpp_presence xmpp_subscribe
warmup
"""

APP_KEYS: dict[str, str] = {
    **dict.fromkeys(_APP.split(), ""),
    "builtins": "is not acted on: deferred is always on",
    "entrypoint": "is not acted on: 'lastacross web' and 'lastacross worker' start the processes",
    "libraries": "is not acted on: requirements.txt names them",
}
SCALING_KEYS: dict[str, str] = dict.fromkeys(_SCALING.split(), "")
HANDLER_KEYS: dict[str, str] = dict.fromkeys(_HANDLER.split(), "")
INBOUND_SERVICES = frozenset(_INBOUND.split())
