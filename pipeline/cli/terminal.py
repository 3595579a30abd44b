"""What the command line prints with: results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from pipeline.errors import RayrieverError

if TYPE_CHECKING:
    from pipeline.doctor import Check

out = Console()
err = Console(stderr=True)


def new_table(first: str, *others: str, title: str | None = None) -> Table:
    """A narrow table whose first column is never cut."""
    columns = [Column(first, no_wrap=True), *map(Column, others)]
    return Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def print_text(text: str) -> None:
    """A result as it is."""
    out.file.write(text)


def print_json(value: Any) -> None:
    print_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


@contextmanager
def _results_alone_on_stdout() -> Iterator[None]:
    """Ray prints its warnings wherever stdout is; between them, nobody could parse what `--json` prints."""
    out.file = sys.stdout
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def readable_errors(goes_on: bool = True) -> Iterator[None]:
    """End the command as its errors ask. `goes_on`: one that was stopped goes on when said again."""
    try:
        with _results_alone_on_stdout():
            yield
    except RayrieverError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except OSError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        err.print(f"stopped; the same command {'goes on from here' if goes_on else 'begins again'}.")
        raise typer.Exit(130) from None


def show_checks(checks: Sequence[Check], as_json: bool) -> None:
    """A line for each; ends the command with 1 where one has failed."""
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        table = new_table("Check", "State", "Detail")
        colours = {"ok": "green", "warning": "yellow", "failed": "red"}
        for check in checks:
            table.add_row(check.name, f"[{colours[check.state]}]{check.state}[/]", escape(check.detail))
        out.print(table)
    if any(check.state == "failed" for check in checks):
        raise typer.Exit(1)
