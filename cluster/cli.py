"""`rayriever submit` and `rayriever job`: recipes on a cluster, from this machine."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pipeline.cli.options import AsJson, Overrides, Start, Until
from pipeline.cli.terminal import err, new_table, out, print_json, print_text, readable_errors, show_checks
from pipeline.errors import RayrieverError

if TYPE_CHECKING:
    from cluster.jobs import Job, Jobs

app = typer.Typer()
job_app = typer.Typer(no_args_is_help=True, help="Jobs on a Ray cluster.")
app.add_typer(job_app, name="job")

Address = Annotated[
    str | None,
    typer.Option(help="The cluster's job server; default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265."),
]
bucket_app = typer.Typer(no_args_is_help=True, help="The bucket that workspaces are in.")
app.add_typer(bucket_app, name="bucket")
BucketUri = Annotated[str, typer.Argument(metavar="URI", help="Of a workspace, or a folder of workspaces: s3://...")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="As `submit` printed it.")]


@app.command()
def submit(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML), below the folder.")],
    overrides: Overrides = None,
    start: Start = None,
    until: Until = None,
    address: Address = None,
    folder: Annotated[Path, typer.Option(help="Uploaded; the job starts in it.")] = Path("."),
    requirements: Annotated[
        Path | None, typer.Option(help="pip requirements that every node installs; default: what the nodes have.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Variable of this shell that the job gets. The dashboard shows it: no keys."),
    ] = None,
    driver_cpus: Annotated[float, typer.Option(min=0, help="CPUs for the run itself; 0 runs it on the head.")] = 1.0,
    wait: Annotated[bool, typer.Option(help="Follow the job, and end as it ends.")] = True,
    as_json: AsJson = False,
) -> None:
    """Run the recipe on a cluster. Submitted again, it goes on where it was."""
    with readable_errors():
        from cluster.jobs import Jobs, Submission

        variables = _variables(env or [])
        submission = Submission(recipe, overrides or [], folder, start, until, requirements, variables, driver_cpus)
        _ = submission.command, submission.workspace  # what is wrong with them needs no cluster
        jobs = Jobs(address)
        job_id = jobs.submit(submission)
        if wait:
            err.print(f"Job {job_id}. Ctrl-C leaves it running.", highlight=False)
            _follow(jobs, job_id, to_stderr=as_json)
            _end(jobs.get(job_id), as_json)
        elif as_json:
            print_json({"id": job_id})
        else:
            out.print(job_id, highlight=False)


@job_app.command("list")
def list_jobs(address: Address = None, as_json: AsJson = False) -> None:
    """Show the cluster's jobs, the newest first."""
    with readable_errors():
        from cluster.jobs import Jobs

        found = Jobs(address).all()
        if as_json:
            print_json([asdict(job) for job in found])
            return
        table = new_table("Job", "Status", "Started", "Ended", "Workspace")
        for job in found:
            table.add_row(job.id, job.status, job.started or "", job.ended or "", escape(job.workspace))
        out.print(table)


@job_app.command()
def status(job_id: JobId, address: Address = None, as_json: AsJson = False) -> None:
    """Show how a job stands."""
    with readable_errors():
        from cluster.jobs import Jobs

        job = Jobs(address).get(job_id)
        if as_json:
            print_json(asdict(job))
        else:
            out.print(f"{job.status}. {escape(job.message)}", highlight=False, soft_wrap=True)


@job_app.command()
def logs(
    job_id: JobId,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Until the job ends.")] = False,
) -> None:
    """Print what a job printed."""
    with readable_errors():
        from cluster.jobs import Jobs

        jobs = Jobs(address)
        if follow:
            _follow(jobs, job_id, to_stderr=False)
            _end(jobs.get(job_id), as_json=False)
        else:
            print_text(jobs.logs(job_id))


@job_app.command()
def stop(job_id: JobId, address: Address = None) -> None:
    """Stop a job. What it has finished is kept."""
    with readable_errors():
        from cluster.jobs import Jobs

        out.print("Stopping." if Jobs(address).stop(job_id) else "It had ended.")


@bucket_app.command()
def check(uri: BucketUri, as_json: AsJson = False) -> None:
    """See whether runs can work there, and who else can. Exits with 1 if they cannot."""
    with readable_errors():
        from cluster.bucket import Bucket, examine

        show_checks(examine(Bucket.of(uri)), as_json)


@bucket_app.command()
def expire(
    uri: BucketUri,
    days: Annotated[int, typer.Option(min=1, help="After which what is left over goes.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Have the store remove what cut-off uploads and replaced versions leave below the URI."""
    with readable_errors():
        from cluster.bucket import Bucket, put_rules

        rules = put_rules(Bucket.of(uri), days)
        if as_json:
            print_json(rules)
        else:
            out.print(f"Rules of the bucket: {', '.join(rule['ID'] for rule in rules)}.", highlight=False)


def _variables(names: list[str]) -> dict[str, str]:
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise RayrieverError(f"--env {missing[0]}: this shell has no such variable.")
    return {name: os.environ[name] for name in names}


def _follow(jobs: Jobs, job_id: str, to_stderr: bool) -> None:
    async def show() -> None:
        async for lines in jobs.follow(job_id):
            shown = err if to_stderr else out
            shown.file.write(lines)
            shown.file.flush()

    try:
        asyncio.run(show())
    except KeyboardInterrupt:
        err.print(
            f"\nThe job goes on. Follow it with `rayriever job logs --follow {job_id}`, "
            f"end it with `rayriever job stop {job_id}`.",
            highlight=False,
        )
        raise typer.Exit(130) from None


def _end(job: Job, as_json: bool) -> None:
    if as_json:
        print_json(asdict(job))
    else:
        err.print(f"Job {job.id}: {job.status}. {escape(job.message)}", highlight=False, soft_wrap=True)
    if job.status != "SUCCEEDED":
        raise typer.Exit(1)
