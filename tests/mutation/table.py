"""Which tests concern which modules: fast ones, the quickest first."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """Modules that the same tests concern.

    Args:
        group: under which they are counted.
        modules: their paths, below ``folder``.
        tests: paths below tests/, or single tests of them; ``-x`` ends a run at the first that fails.
        without: parts of tests' names that are left out: large amounts, which take long and tell little.
    """

    group: str
    folder: str
    modules: str
    tests: str
    without: tuple[str, ...] = ()

    @property
    def paths(self) -> list[str]:
        """The modules, from the tree's root."""
        return [f"{self.folder}{name}.py" for name in self.modules.split()]

    @property
    def arguments(self) -> list[str]:
        """The tests, as pytest takes them.

        One datastore is enough to see a fault; a PostgreSQL of its own would cost each mutant seconds.
        """
        names = " and ".join(f"not {name}" for name in ("postgresql", *self.without))
        return ["-k", names, *(f"tests/{name}" for name in self.tests.split())]

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"{self.group}: {self.modules}"

    def missing(self, root: Path) -> list[str]:
        """Paths that no longer exist, because something was moved or renamed."""
        paths = [*self.paths, *(f"tests/{name.partition('::')[0]}" for name in self.tests.split())]
        return [path for path in paths if not (root / path).exists()]


SCHEMA = (
    "integration/test_datastore_migrate.py::test_the_applications_migrations_make_what_its_models_declare"
)

PARTS = (
    # --- the broker
    Part(
        "broker",
        "lastacross/broker/",
        "steps",
        "unit/test_record.py unit/test_task.py lua/test_lease_tasks.py lua/test_keep_queue.py "
        "lua/test_upload_queues.py lua/test_read_statistics.py lua/test_reroute_tasks.py "
        "lua/test_add_task.py lua/test_register_service.py lua/test_retry_task.py "
        "integration/test_control.py integration/test_maintenance.py integration/test_queue.py "
        "integration/test_rq_tools.py integration/test_batch.py "
        "integration/test_events.py::test_the_steps_of_a_task_that_succeeds "
        "integration/test_watchdog.py::test_a_killed_process_counts_a_crash_and_a_silent_one_does_not",
    ),
    Part(
        "broker",
        "lastacross/taskqueue/",
        "batch",
        "integration/test_batch.py integration/test_rq_tools.py",
    ),
    Part(
        "broker",
        "lastacross/",
        "taskqueue/task broker/record taskqueue/checks taskqueue/options broker/headers taskqueue/body",
        "unit/test_task.py unit/test_targets.py unit/test_record.py integration/test_task_add.py "
        "integration/test_queue.py integration/test_delivery.py",
    ),
    Part(
        "broker",
        "lastacross/",
        "taskqueue/queue broker/listing",
        "integration/test_lookup.py integration/test_control.py integration/test_statistics.py "
        "integration/test_queue.py integration/test_pull_queue.py",
    ),
    Part(
        "broker",
        "lastacross/broker/",
        "pull",
        "integration/test_pull_queue.py integration/test_damaged_state.py::"
        "test_a_damaged_pull_task_is_leased_or_dead_and_the_one_behind_it_leased",
    ),
    Part(
        "broker",
        "lastacross/broker/",
        "queue_directory",
        "lua/test_keep_queue.py integration/test_known_queues.py",
    ),
    # --- retry
    Part("retry", "lastacross/broker/", "retry", "unit/test_retry.py"),
    # --- the worker's decisions
    Part(
        "worker",
        "lastacross/worker/",
        "outcomes delivery deadline",
        "unit/test_outcomes.py integration/test_deadline.py integration/test_delivery.py "
        "integration/test_appengine_edge_cases.py",
    ),
    Part(
        "worker",
        "lastacross/",
        "worker/leasing processes/connection_shares",
        "unit/test_connection_shares.py integration/test_serving.py integration/test_leasing.py "
        "integration/test_prefetch.py",
    ),
    Part(
        "worker",
        "lastacross/worker/",
        "maintenance runners",
        "integration/test_started.py integration/test_orphans.py integration/test_maintenance.py "
        "integration/test_runners.py "
        "integration/test_tracing.py::test_a_task_with_two_retries_is_one_trace_of_linked_siblings",
    ),
    Part("worker", "lastacross/worker/", "remote", "integration/test_remote_delivery.py"),
    # --- cron
    Part(
        "cron",
        "lastacross/cron/",
        "grammar local_time schedules tokens",
        "unit/test_cron_grammar.py unit/test_cron_next_run.py",
    ),
    Part("cron", "lastacross/cronruns/", "model recording tasks ticking", "integration/test_cron.py"),
    # --- config
    Part(
        "config", "lastacross/config/", "queues", "unit/test_config_queues.py unit/test_config_wrong_files.py"
    ),
    Part("config", "lastacross/config/", "cron", "unit/test_config_cron.py unit/test_config_wrong_files.py"),
    Part(
        "config",
        "lastacross/config/",
        "app handlers includes dos dispatch backends services",
        "unit/test_config_app.py unit/test_config_includes.py unit/test_config_dispatch.py "
        "unit/test_config_backends.py unit/test_config_services.py unit/test_config_wrong_files.py",
    ),
    Part(
        "config",
        "lastacross/config/",
        "yaml_file document values units known_keys diagnostics loading",
        "unit/test_config_units.py unit/test_config_loading.py unit/test_config_environment.py "
        "unit/test_config_cron.py unit/test_config_wrong_files.py "
        "unit/test_config_queues.py unit/test_config_app.py unit/test_config_bombs.py",
    ),
    Part("config", "lastacross/config/", "settings variables", "unit/test_config_environment.py"),
    # --- webapp's boundary
    Part(
        "webapp",
        "lastacross/webapp/",
        "boundary environ script stack webapp2_compat body_limit access_log security_headers login",
        "unit/test_webapp_script.py "
        "unit/test_webapp_hosts.py unit/test_webapp_routes.py unit/test_webapp_security_headers.py "
        "unit/test_webapp_body_limit.py unit/test_webapp_forms.py unit/test_webapp_login.py "
        "unit/test_webapp_stack.py unit/test_webapp_handlers.py unit/test_webapp_deliveries.py",
    ),
    Part(
        "webapp",
        "lastacross/webapp/",
        "deliveries dispatch error_pages failures health static_files",
        "unit/test_webapp_health.py unit/test_webapp_answers.py unit/test_webapp_static_files.py "
        "unit/test_webapp_stack.py unit/test_webapp_login.py unit/test_webapp_deliveries.py "
        "unit/test_webapp_handlers.py",
    ),
    # --- the programs
    Part(
        "programs",
        "programs/",
        "quilt/models quilt/pages quilt/tasks shared/starting shared/queued shared/progress",
        "unit/test_progress_words.py acceptance/test_quilt_pages.py acceptance/test_starting.py "
        "integration/test_painting.py unit/test_queued_calls.py "
        "integration/test_pruning.py::"
        "test_there_is_room_for_6_million_squares_80_million_numbers_and_2_million_results",
    ),
    Part(
        "programs",
        "programs/errors/",
        "chart fields limits models pages queries statements steps intake browsers grouping notifying",
        f"{SCHEMA} integration/test_grouping.py integration/test_error_steps.py "
        "acceptance/test_error_collector.py",
    ),
    Part(
        "programs",
        "programs/shared/",
        "forms",
        "acceptance/test_quilt_pages.py acceptance/test_count_pages.py",
    ),
    Part(
        "programs",
        "programs/",
        "count/models count/pages count/view count/tasks count/runs shared/operations",
        "unit/test_progress_words.py integration/test_runs.py acceptance/test_count_pages.py",
    ),
    Part(
        "programs",
        "programs/reload/",
        "accounts feed models view runs pages tasks",
        f"{SCHEMA} unit/test_progress_words.py integration/test_reloading.py acceptance/test_reload_pages.py",
    ),
    Part("programs", "programs/shared/", "pruning runs", "integration/test_pruning.py"),
    Part(
        "programs",
        "programs/intrastat/",
        "commodities demo models report pages invoices",
        "integration/test_intrastat.py acceptance/test_intrastat_pages.py",
        without=("several_processes", "busy_day"),
    ),
    Part("programs", "programs/quilt/", "together", "unit/test_together.py"),
)
