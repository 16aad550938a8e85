"""docs/operations.md agrees with the code."""

import re

from app.errors import STATUSES
from tests import docs

TEXT = docs.PAGE.read_text()


def test_the_tables_are_those_of_the_code() -> None:
    assert docs.written(TEXT) == TEXT, "run `make docs`"


def test_every_metric_that_is_named_exists() -> None:
    table = docs.metrics()
    for name in re.findall(r"`((?:vitrine|http)_[a-z_]+)`", TEXT):
        assert f"`{name}`" in table


def test_every_alert_has_advice() -> None:
    advice = TEXT.split("What to do:")[1]
    for name in re.findall(r"`(Vitrine\w+)`", docs.alerts()):
        assert f"`{name}`" in advice


def test_every_setting_that_is_named_exists() -> None:
    table = docs.settings()
    for name in re.findall(r"`?(VITRINE_[A-Z_]+[A-Z])\b", TEXT):
        assert f"`{name}`" in table or name == "VITRINE_PORT"


def test_the_reasons_of_the_metrics_are_the_codes_of_the_problems() -> None:
    from app.telemetry.metrics import Metrics

    text = Metrics().text().decode()
    for family in ("vitrine_request_failures_total", "vitrine_image_failures_total"):
        assert set(re.findall(rf'{family}{{reason="(\w+)"}}', text)) == set(STATUSES)
