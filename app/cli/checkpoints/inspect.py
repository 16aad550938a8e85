"""`vitrine inspect`."""

from typing import Any

import click
import orjson

from app.cli import options, run
from app.settings import CHECKPOINT


@click.command("inspect", cls=options.Command)
@click.argument("source")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as in GET /model.")
@options.settings(CHECKPOINT[1:])
def command(source: str, as_json: bool, **values: Any) -> None:
    """Show how a checkpoint would be served, and why, without running it."""
    checkpoint, head = run.open_checkpoint(source, values)
    from app.heads.describe import head_facts
    from models.checkpoints.describe import describe

    content = describe(checkpoint)
    if head is not None:
        content |= head_facts(head, content["reasons"])
    if as_json:
        click.echo(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        return
    reasons = content.pop("reasons")
    labels = content.pop("labels") or ["none"]
    content["labels"] = ", ".join(labels[:3]) + (f", ... ({len(labels)})" if len(labels) > 3 else "")
    for name, value in content.items():
        click.echo(f"{name:15}{value}" + (f"  ({reasons.pop(name)})" if name in reasons else ""))
    for name, reason in reasons.items():
        click.echo(f"{name:15}{reason}")
