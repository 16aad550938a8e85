"""Make the tables of docs/operations.md from the code: `make docs` writes them, and a test compares."""

from pathlib import Path
from typing import Any

import yaml

from app.settings import SHIPPED_MODEL, Settings
from app.telemetry.metrics import Metrics
from tests.server import ROOT

PAGE = ROOT / "docs" / "operations.md"
ALERTS = ROOT / "deploy" / "monitoring" / "alerts.yml"
OWN = ("http_", "vitrine_")


def settings() -> str:
    """Return a table of every variable, its default and its meaning."""
    rows = ["| variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        text, _, stated = (field.description or "").partition(" [default: ")
        default = stated.rstrip("].") if stated else _shown(field.default)
        rows.append(f"| `VITRINE_{name.upper()}` | {default} | {text.rstrip('.')} |")
    return "\n".join(rows)


def _shown(default: Any) -> str:
    if default == SHIPPED_MODEL:
        return "the shipped model"
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ", ".join(default) or "none"
    return "none" if default in (None, "") else f"`{default}`"


def metrics() -> str:
    """Return a table of every metric family of the service, its kind, labels and meaning."""
    registry = Metrics().registry
    rows = ["| family | kind | labels | |", "|---|---|---|---|"]
    families = sorted((family for family in registry.collect() if family.name.startswith(OWN)), key=lambda f: f.name)
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in _labels(registry, family.name))
        rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation.rstrip('.')} |")
    return "\n".join(rows)


def _labels(registry: Any, name: str) -> tuple[str, ...]:
    for collector, names in registry._collector_to_names.items():
        if name in names:
            return tuple(getattr(collector, "_labelnames", ()))
    return ()


def alerts() -> str:
    """Return a table of every alert, its severity and its condition."""
    rows = ["| alert | severity | fires | after |", "|---|---|---|---|"]
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            expression = " ".join(rule["expr"].split()).replace("|", "\\|")
            after = rule.get("for", "at once")
            rows.append(f"| `{rule['alert']}` | {rule['labels']['severity']} | `{expression}` | {after} |")
    return "\n".join(rows)


def written(page: str) -> str:
    """Return the page with new tables."""
    for name, table in {"settings": settings(), "metrics": metrics(), "alerts": alerts()}.items():
        begin, end = f"<!-- {name}: make docs -->", f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        assert found, f"{PAGE} has no markers for {name}"
        page = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return page


def main(page: Path = PAGE) -> None:
    """Write the tables."""
    page.write_text(written(page.read_text()))


if __name__ == "__main__":
    main()
