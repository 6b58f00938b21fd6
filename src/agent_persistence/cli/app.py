"""The commands, their errors and exit codes."""

from __future__ import annotations

import signal
from importlib.metadata import version
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from agent_persistence.cli import (
    agentflow_tables,
    demo,
    doctor,
    health,
    import_langgraph,
    optional,
    prune,
    schema,
    transfer,
    view,
)
from agent_persistence.cli.failures import exit_code_of, report
from agent_persistence.errors import PersistenceError

_SCHEMA: Final = "Schema"
_OPERATIONS: Final = "Operations"
_CONVERSATIONS: Final = "Conversations"


class Commands(TyperGroup):
    """Reports errors in one line instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        # The reader of our output has closed it, which typer does not report as an error.
        except BrokenPipeError:
            raise
        except (PersistenceError, OSError) as error:
            report(error, debug=ctx.params["debug"])
            raise typer.Exit(exit_code_of(error)) from error


app: Final = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    # typer's tracebacks can show local variables, which hold contents and addresses with passwords.
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Exit codes: 0 ok, 1 something is wrong or was declined, 2 usage or settings, 3 database unreachable, 130 "
    "interrupted.",
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer passes it by position
    if wanted:
        typer.echo(f"agent-persistence {version('agent-persistence')}")
        raise typer.Exit


@app.callback()
def agent_persistence(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version_wanted: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Threads, messages and states of AI agents in PostgreSQL, with a Redis cache.

    PERSISTENCE_DATABASE_URL and PERSISTENCE_REDIS_URL, in the environment or in .env, name the servers. The word
    `embedded` means servers of the `embedded` extra, which run during the command.

    What deletes asks first, and needs `--yes` in a pipeline; `--dry-run` shows what would be deleted.
    """


app.command()(demo.demo)
app.command(rich_help_panel=_SCHEMA)(schema.upgrade)
# So that -1 is an argument.
app.command(rich_help_panel=_SCHEMA, context_settings={"ignore_unknown_options": True})(schema.downgrade)
app.command(rich_help_panel=_SCHEMA)(schema.current)
app.command(rich_help_panel=_SCHEMA)(schema.check)
app.add_typer(optional.app, name="optional", rich_help_panel=_SCHEMA)
app.command(rich_help_panel=_SCHEMA)(schema.config)
app.command(rich_help_panel=_OPERATIONS)(health.health)
app.command(rich_help_panel=_OPERATIONS)(doctor.doctor)
app.command(rich_help_panel=_OPERATIONS)(prune.prune)
app.command("import", rich_help_panel=_CONVERSATIONS)(transfer.import_)
app.command(rich_help_panel=_CONVERSATIONS)(transfer.export)
app.command("import-langgraph", rich_help_panel=_CONVERSATIONS)(import_langgraph.import_langgraph)
app.command("import-agentflow", rich_help_panel=_CONVERSATIONS)(agentflow_tables.import_agentflow)
app.command(rich_help_panel=_CONVERSATIONS)(view.threads)
app.command(rich_help_panel=_CONVERSATIONS)(view.show)


def run() -> None:
    """Run the command line."""
    # A terminated command cleans up like an interrupted one; otherwise its servers would keep running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app(prog_name="agent-persistence")
