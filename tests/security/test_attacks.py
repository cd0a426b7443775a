"""Nothing that a stranger sends opens a protected page, leads a browser elsewhere or ends in a 5xx."""

from collections.abc import Callable, Iterator

import pytest

from tests.security.attacks import CLASSES, AttackClass, Request, run, send
from tests.security.site import running_target
from tests.security.table import Row
from tests.support.web_server import WebServer

pytestmark = pytest.mark.slow

SAMPLE = 120
SEED = 13


@pytest.fixture(scope="module")
def target() -> Iterator[WebServer]:
    """One site for every class."""
    with running_target() as running:
        yield running


@pytest.mark.parametrize("attack", CLASSES, ids=lambda attack: attack.name)
def test_a_sample_of_an_attack_does_not_get_in(
    target: WebServer, attack: AttackClass, attacks: Callable[[Row], None]
) -> None:
    outcome = run(attack, target.port, SAMPLE, SEED)
    attacks(Row(attack.name, outcome.variants, len(outcome.let_in)))

    assert outcome.variants >= min(SAMPLE, 20)
    assert [(request.raw[:200], answer.raw[:300]) for request, answer in outcome.let_in[:3]] == []


@pytest.mark.long
@pytest.mark.parametrize("attack", CLASSES, ids=lambda attack: attack.name)
def test_no_variant_of_an_attack_gets_in(
    target: WebServer, attack: AttackClass, attacks: Callable[[Row], None]
) -> None:
    outcome = run(attack, target.port, 10_000, SEED)
    attacks(Row(attack.name, outcome.variants, len(outcome.let_in)))

    assert [(request.raw[:200], answer.raw[:300]) for request, answer in outcome.let_in[:3]] == []


def test_the_site_serves_visitors_meanwhile(target: WebServer) -> None:
    answer = send(target.port, Request(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))

    assert answer.status == 200
    assert b"<h1" in answer.body
