"""``sqla-jobs jobs retry``, ``cancel`` and ``delete``: by ids, or by what they have in common."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import click

from sqla_jobs import inspection
from sqla_jobs.cli.filters import HIGHEST_ID, chosen_filter, filter_options, typed
from sqla_jobs.cli.jobs import print_jobs
from sqla_jobs.cli.place import Opened, Place, place_options, placed
from sqla_jobs.cli.printing import plain
from sqla_jobs.cli.refusals import NotAll
from sqla_jobs.errors import ConfigurationError
from sqla_jobs.inspection import Acted, Count, JobFilter
from sqla_jobs.inspection.acts import Act as Verb
from sqla_jobs.outcome import JobState

BATCH: Final = 500
"""Jobs of one transaction."""
LEVEL: Final = "READ COMMITTED"
"""Whatever the application's own is: a batch must not fail because another client was quicker."""
SHOWN: Final = 10
"""Jobs that a dry run shows."""

DONE: Final[dict[Verb, str]] = {"retry": "retried", "cancel": "cancelled", "delete": "deleted"}
DOES: Final[dict[Verb, str]] = {"retry": "retries", "cancel": "cancels", "delete": "deletes"}
USUAL: Final[dict[Verb, tuple[JobState, ...]]] = {
    "retry": (JobState.FAILED,),
    "cancel": (JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING),
    "delete": (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED),
}
"""The states that a filter means which says none: those of which one of them surely is meant."""


def _command(verb: Verb, text: str) -> click.Command:
    @click.command(verb, help=text)
    @click.argument("ids", metavar="[ID]...", nargs=-1, type=click.IntRange(1, HIGHEST_ID))
    @filter_options
    @click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @place_options
    @click.pass_context
    def command(ctx: click.Context, /, ids: tuple[int, ...], dry_run: bool, yes: bool, **params: Any) -> None:
        where = chosen_filter(params)
        if ids and where:
            raise click.UsageError("Say ids or a filter, not both.")
        if not ids and not where:
            raise click.UsageError(f"Say which jobs to {verb}: ids, or a filter such as --state failed.")
        if ids:
            _by_ids(placed(ctx), verb, list(dict.fromkeys(ids)), dry_run, yes)
        else:
            where = where if where.states else replace(where, states=USUAL[verb])
            _by_filter(placed(ctx), verb, where, dry_run, yes)

    return command


retry: Final = _command(
    "retry",
    """Run jobs once more, now.

    By ids, or by a filter, which means failed jobs unless it names a state. Jobs that wait for a later time
    run at once. In batches, each committed for itself. Exit code 4: not all that were named by id were
    retried.
    """,
)
cancel: Final = _command(
    "cancel",
    """Cancel jobs: those that wait will not run, those that run are interrupted.

    By ids, or by a filter, which means jobs that are not finished unless it names a state. In batches, each
    committed for itself. Exit code 4: not all that were named by id were cancelled.
    """,
)
delete: Final = _command(
    "delete",
    """Delete jobs, with all that is known of them.

    By ids, or by a filter, which means finished jobs unless it names a state. In batches, each committed for
    itself. Exit code 4: not all that were named by id were deleted.
    """,
)


@dataclass
class Tally:
    """What was done, and what was passed over and why."""

    verb: Verb
    done: int = 0
    passed: Counter[str] = field(default_factory=Counter)

    def add(self, acted: Acted) -> None:
        """One batch, which is committed."""
        self.done += acted.done
        self.passed.update(acted.passed)
        if sys.stderr.isatty():
            click.echo(f"\r{self.seen:,} ", nl=False, err=True)

    @property
    def seen(self) -> int:
        return self.done + self.passed.total()

    def __str__(self) -> str:
        over = ", ".join(f"{number:,} {reason}" for reason, number in self.passed.most_common())
        return f"{_jobs(self.done)} {DONE[self.verb]}{f'; passed over: {over}' if over else ''}"


def _by_ids(place: Place, verb: Verb, ids: Sequence[int], dry_run: bool, yes: bool) -> None:
    which = f"job {ids[0]}" if len(ids) == 1 else f"{len(ids):,} jobs"
    with place.opened(isolation_level=LEVEL) as there:
        if not dry_run:
            _confirm(f"This {DOES[verb]} {which}", there, yes)
        with _told(Tally(verb), dry_run) as tally:
            for start in range(0, len(ids), BATCH):
                with there.sessions() as session:
                    some = ids[start : start + BATCH]
                    acted = inspection.act(session, there.model, verb, ids=some, limit=BATCH)
                    # Done and undone: who has locked which row is known in no other way.
                    session.rollback() if dry_run else session.commit()
                tally.add(acted)
    if tally.passed:
        how_many = "" if len(ids) == 1 else f"{tally.passed.total():,} of "
        raise NotAll(f"not {DONE[verb]}: {how_many}{which}")


def _by_filter(place: Place, verb: Verb, where: JobFilter, dry_run: bool, yes: bool) -> None:
    count, page = place.look(
        lambda session, model, _: (
            inspection.count_jobs(session, model, where),
            inspection.list_jobs(session, model, where, limit=SHOWN),
        )
    )
    if not count.number and count.exact:
        click.echo(f"no job matches{plain(typed(where))}")
        return
    which = _counted(count)
    if dry_run:
        if page.jobs:
            print_jobs(page.jobs)
        click.echo(f"would {verb}: {which}{', of which these are the first' if page.next else ''}")
        return
    with place.opened(isolation_level=LEVEL) as there:
        _confirm(f"This {DOES[verb]} {which} ({plain(typed(where)).strip()})", there, yes)
        with _told(Tally(verb)) as tally:
            cursor: str | None = None
            while True:
                # No more than was said, if that is known: others may come to match meanwhile.
                limit = min(BATCH, count.number - tally.seen) if count.exact else BATCH
                with there.sessions.begin() as session:
                    acted = inspection.act(
                        session, there.model, verb, where=where, cursor=cursor, limit=limit
                    )
                tally.add(acted)
                cursor = acted.next
                if cursor is None or (count.exact and tally.seen >= count.number):
                    break


@contextmanager
def _told(tally: Tally, dry_run: bool = False) -> Iterator[Tally]:
    """Say at the end what was done, also at an end by Ctrl-C or by an error."""
    try:
        yield tally
    finally:
        if sys.stderr.isatty():
            click.echo("\r", nl=False, err=True)
        click.echo(f"would be: {tally}" if dry_run else str(tally))


def _confirm(question: str, there: Opened, yes: bool) -> None:
    if yes:
        return
    with there.sessions() as session:
        question = f"{question}, in {session.get_bind().engine.url.render_as_string()}"
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question}: say --yes if that is what you want")
    click.confirm(f"{question}. Go on?", abort=True)


def _counted(count: Count) -> str:
    if count.exact:
        return _jobs(count.number)
    return f"at least {count.number:,} jobs" if count.number else "jobs that are too many to be counted"


def _jobs(number: int) -> str:
    return f"{number:,} job{'' if number == 1 else 's'}"
