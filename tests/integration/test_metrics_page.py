"""``/_ah/metrics``: who may scrape, and what a scrape says; dashboard and alerts ask for nothing else."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from lastacross import config, datastore, metrics
from lastacross.broker import Broker
from lastacross.config import CRON_QUEUE
from lastacross.cronruns import model
from lastacross.errors import ConfigError
from lastacross.metrics import Recorder
from lastacross.processes import metrics_page
from lastacross.store import Store
from lastacross.taskqueue import Queue, Task
from tests.support import databases, promql, uploads
from tests.support.clock import StoppedClock
from tests.support.cron_lab import File, job
from tests.support.web import Site, site

TOKEN = "a-token-of-the-tests-long-enough"
BEARER = {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}"}
DEPLOY = Path(__file__).parent.parent.parent / "deploy" / "prometheus"
MAIN = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'']\n"
# Grafana replaces these.
VARIABLES = {"$__rate_interval": "1m", "$queue": ".*"}

Series = Mapping[str, list[dict[str, str]]]


@pytest.fixture
def page(app_root: Path, configuration: config.Config, test_store: Store) -> Iterator[Site]:
    """The page of an application whose Redis has two empty queues and whose database has its tables."""
    settings = configuration.settings
    variables = {
        "REDIS_URL": settings.redis_url,
        "DATABASE_URL": settings.database_url,
        "LASTACROSS_METRICS_TOKEN": TOKEN,
    }
    databases.upgrade()
    uploads.upload(test_store, {"default": {}, "slow": {"rate": "0.5", "bucket_size": "3"}, CRON_QUEUE: {}})
    with site(app_root, MAIN, builtins={metrics_page.PATH: metrics_page.serve}, variables=variables) as found:
        yield found
    datastore.dispose()


def scraped(page: Site) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The values of a scrape, by metric and labels."""
    answer = page.get("/_ah/metrics", **BEARER)
    assert answer.status_int == 200
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def key(**labels: str) -> tuple[tuple[str, str], ...]:
    """Labels as ``scraped`` has them."""
    return tuple(sorted(labels.items()))


# --- who may scrape -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer ü",
    ],
    ids=["none", "empty", "blank", "longer", "shorter", "basic", "bare", "not-ascii"],
)
def test_a_stranger_sees_no_metrics(page: Site, header: str) -> None:
    answer = page.get("/_ah/metrics", **({"HTTP_AUTHORIZATION": header} if header else {}))

    assert (answer.status_int, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "taskqueue" not in answer.text


def test_the_bearer_of_the_token_and_the_administrator_see_metrics(page: Site) -> None:
    for environ in (BEARER, {"HTTP_AUTHORIZATION": f"bearer  {TOKEN} "}, page.administrator):
        answer = page.get("/_ah/metrics", **environ)
        assert (answer.status_int, answer.headers["Cache-Control"]) == (200, "no-store")
        assert answer.content_type == "text/plain"
        assert "taskqueue_tasks{" in answer.text


def test_without_a_token_in_the_settings_no_token_is_good() -> None:
    assert not metrics_page.has_token({"HTTP_AUTHORIZATION": "Bearer "}, "")
    assert not metrics_page.has_token({"HTTP_AUTHORIZATION": "Bearer x"}, "")


def test_a_scraper_may_know_the_process_only_by_its_address(page: Site) -> None:
    assert page.get("/_ah/metrics", HTTP_HOST="10.1.2.3:8080", **BEARER).status_int == 200


def test_only_get_is_allowed(page: Site) -> None:
    assert page.request("/_ah/metrics", BEARER, method="HEAD").status_int == 200
    assert page.post("/_ah/metrics", **BEARER).status_int == 405


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("short", "needs at least 16"),
        ("with a space, which no header has", "cannot have"),
        ("ü" * 20, "cannot"),
    ],
)
def test_a_token_that_cannot_be_sent_is_refused(app_root: Path, token: str, problem: str) -> None:
    environ = {"SECRET_KEY": "x" * 40, "LASTACROSS_METRICS_TOKEN": token}

    with pytest.raises(ConfigError, match=problem) as raised:
        config.load(app_root, environ)

    assert token not in str(raised.value)


# --- what a scrape says -------------------------------------------------------------------


def test_tasks_are_counted_by_state(page: Site, clock: StoppedClock) -> None:
    queue = Queue("slow")
    queue.add([Task(url="/a") for _ in range(3)])
    queue.add(Task(url="/b", countdown=60))
    clock.advance(90)

    found = scraped(page)

    assert found["taskqueue_tasks"][key(queue="slow", state="ready")] == 3
    assert found["taskqueue_tasks"][key(queue="slow", state="scheduled")] == 1
    assert found["taskqueue_tasks"][key(queue="slow", state="dead")] == 0
    assert found["taskqueue_tasks"][key(queue="default", state="ready")] == 0
    assert found["taskqueue_oldest_task_age_seconds"] == {
        key(queue="default"): 0,
        key(queue="slow"): 90,
        key(queue=CRON_QUEUE): 0,
    }


def test_tokens_and_rates_are_those_of_now(page: Site, test_store: Store, clock: StoppedClock) -> None:
    Queue("slow").add([Task(url="/a") for _ in range(3)])
    request = {"token": "w", "number": 0, "wanted": 3, "free": 3, "lease_seconds": 60}
    Broker(test_store).lease(["slow"], **request)  # type: ignore[arg-type]
    clock.advance(2)
    found = scraped(page)
    assert found["taskqueue_dispatch_tokens"][key(queue="slow")] == pytest.approx(1)
    assert found["taskqueue_dispatch_tokens"][key(queue="default")] == 500
    assert found["taskqueue_dispatch_rate"][key(queue="slow")] == 0.5

    Queue("slow").pause()
    clock.advance(100)

    found = scraped(page)
    assert found["taskqueue_dispatch_tokens"][key(queue="slow")] == 3
    assert found["taskqueue_dispatch_rate"][key(queue="slow")] == 0


def test_attempts_of_all_processes_are_counted(page: Site, test_store: Store) -> None:
    for seconds in (0.001, 0.003, 40000.0):
        process = Recorder(test_store)
        process.record([("default", "workers.send", "done", seconds, 0.5)])
        process.flush()

    found = scraped(page)

    assert found["taskqueue_task_attempts_total"][key(queue="default", outcome="done")] == 3
    assert found["taskqueue_handler_attempts_total"][key(handler="workers.send", outcome="done")] == 3
    buckets = found["taskqueue_task_duration_seconds_bucket"]
    assert buckets[key(queue="default", le="0.001")] == 0
    assert buckets[key(queue="default", le="0.002")] == 1
    assert buckets[key(queue="default", le="0.004")] == 2
    assert buckets[key(queue="default", le="16777.216")] == 2
    assert buckets[key(queue="default", le="+Inf")] == 3
    assert found["taskqueue_task_duration_seconds_sum"][key(queue="default")] == pytest.approx(40000.004)
    assert found["taskqueue_task_wait_seconds_count"][key(queue="default")] == 3


def test_runs_of_cron_jobs_are_counted_as_they_end(page: Site, clock: StoppedClock) -> None:
    scheduler = File(job("every 1 minutes synchronized", "nightly")).scheduler()
    scheduler.act(clock.now())
    for state in ("done", "failed", "lost", "done"):
        clock.advance(60)
        scheduler.act(clock.now())
        [run] = model.open_runs()
        assert model.end(run.task_name, clock.now(), state)
    found = scraped(page)

    runs = found["cron_runs_total"]
    assert {dict(labels)["outcome"]: number for labels, number in runs.items()} == {
        "done": 2,
        "failed": 1,
        "lost": 1,
    }
    assert found["cron_last_success_timestamp_seconds"] == {key(job="nightly"): clock.now()}


def test_streams_of_all_processes_are_added_up(page: Site, test_store: Store, clock: StoppedClock) -> None:
    metrics.report_streams(test_store, "one", 3)
    metrics.report_streams(test_store, "two", 4)
    clock.advance(5)
    metrics.report_streams(test_store, "two", 5, 4)
    assert scraped(page)["sse_streams"] == {(): 8}

    clock.advance(11)

    assert scraped(page)["sse_streams"] == {(): 5}


def test_the_database_may_be_unavailable(page: Site, app_root: Path, configuration: config.Config) -> None:
    for file in app_root.glob("test.db*"):
        file.unlink()

    found = scraped(page)

    assert "cron_last_success_timestamp_seconds" not in found
    assert found["taskqueue_tasks"]


def test_nothing_is_answered_without_redis(page: Site, test_store: Store) -> None:
    test_store.redis.connection_pool.connection_kwargs["port"] = 1
    test_store.redis.connection_pool.disconnect()

    answer = page.get("/_ah/metrics", **BEARER)

    assert (answer.status_int, answer.headers["Retry-After"]) == (503, "2")


def test_openmetrics_is_answered_if_it_is_asked_for(page: Site) -> None:
    answer = page.get("/_ah/metrics", HTTP_ACCEPT="application/openmetrics-text;version=1.0.0", **BEARER)

    assert answer.content_type == "application/openmetrics-text"
    assert answer.text.endswith("# EOF\n")


# --- the files in deploy/ -----------------------------------------------------------------


@pytest.fixture
def series(page: Site, test_store: Store, clock: StoppedClock) -> Series:
    """The labels of each series of a scrape of a site in which everything has happened."""
    Queue("default").add(Task(url="/a"))
    recorder = Recorder(test_store)
    recorder.record(("default", "/.*", outcome, 0.1, 0.1) for outcome in metrics.OUTCOMES)
    recorder.flush()
    scheduler = File(job("every 1 minutes synchronized", "nightly")).scheduler()
    scheduler.act(clock.now())
    clock.advance(60)
    scheduler.act(clock.now())
    assert model.end(model.open_runs()[0].task_name, clock.now(), "done")
    redis: Any = test_store.redis
    redis.sadd("rq:workers", "rq:worker:la-host-1")
    redis.hset("rq:worker:la-host-1", mapping={"hostname": "host", "state": "idle"})
    found = {name: [dict(labels) for labels in values] for name, values in scraped(page).items()}
    # Prometheus itself adds this one.
    return {**found, "up": [{"job": "lastacross", "instance": "127.0.0.1:8080"}]}


def dashboard_queries() -> list[str]:
    """The queries of the Grafana dashboard."""
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def alert_queries() -> list[str]:
    """The expressions of the alerts."""
    groups = YAML(typ="safe").load(DEPLOY / "alerts.yaml")["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def keda_queries() -> list[str]:
    """The queries by which KEDA scales."""
    scaled = YAML(typ="safe").load(DEPLOY / "keda.yaml")
    return [
        trigger["metadata"]["query"].replace("default|mail", ".*") for trigger in scaled["spec"]["triggers"]
    ]


def test_every_query_asks_for_metrics_and_labels_that_a_scrape_has(series: Series) -> None:
    queries = [*dashboard_queries(), *alert_queries(), *keda_queries()]
    assert len(queries) >= 25

    found = {query: promql.problems(promql.asked(query, VARIABLES), series) for query in queries}

    assert {query: problems for query, problems in found.items() if problems} == {}


def test_the_dashboard_chooses_among_the_queues(series: Series) -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    chosen = [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    assert chosen == ["label_values(taskqueue_tasks, queue)"]
    assert all("queue" in labels for labels in series["taskqueue_tasks"])


def test_an_alert_names_only_labels_that_its_expression_keeps(series: Series) -> None:
    groups = YAML(typ="safe").load(DEPLOY / "alerts.yaml")["groups"]
    for rule in groups[0]["rules"]:
        text = rule["annotations"]["summary"]
        named = {part.split("}}")[0].strip() for part in text.split("{{ $labels.")[1:]}
        query = promql.asked(rule["expr"])
        kept = query.grouped_by or {
            label for selector in query.selectors for labels in series[selector.metric] for label in labels
        }
        assert named <= kept, rule["alert"]


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("rate(taskqueue_attempts_total[5m])", "there is no metric taskqueue_attempts_total"),
        ('sum(taskqueue_tasks{status="ready"})', "taskqueue_tasks has no label status"),
        ('taskqueue_tasks{state=~"ready|running"}', "taskqueue_tasks has no state ['running']"),
        ("sum by (handler) (taskqueue_tasks)", "no metric has the label handler"),
    ],
)
def test_a_query_for_what_no_scrape_has_is_seen(series: Series, query: str, problem: str) -> None:
    assert promql.problems(promql.asked(query), series) == [problem]


@pytest.mark.parametrize("query", ["sum(a", "a{b}}", "a ; b"])
def test_a_query_that_cannot_be_parsed_is_seen(query: str) -> None:
    with pytest.raises(ValueError, match="in '"):
        promql.asked(query)
