"""A shop at work: orders come in, workers write invoices, one of them is killed. `make demo` runs it.

    python demo.py [--csv FILE] [--database-url URL]

Exit code 0: in the end the database holds what it must hold; 1: it does not; 2: the file is no such
file; 130: Ctrl-C.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.orm import Session, sessionmaker

import make_orders
from processes import SHOP, Worker, alembic, embedded_postgresql
from shop import imports
from verdict import Story, compare, table

WORKERS = 3
THREADS = 4
OPTIONS = ("--threads", str(THREADS), "--poll-interval", "0.5",
           "--heartbeat-interval", "1", "--heartbeat-limit", "3")  # fmt: skip
ENOUGH = 200
"""Orders with which a worker can surely be caught at work."""
PATIENCE = 120
"""Seconds without any job being finished after which the demo gives up."""


class Demo:
    """The story from the first order to the verdict."""

    def __init__(self, console: Console, url: URL, file: Path, orders: list[imports.Row], logs: Path) -> None:
        self.console = console
        self.url = url
        self.file = file
        self.orders = orders
        self.logs = logs
        self.engine: Engine = create_engine(url)
        self.sessions = sessionmaker(self.engine)
        self.workers: list[Worker] = []
        self.story = Story()
        self.killed_at: float | None = None
        self.rescued = False
        self.finished = 0
        self.progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description:8}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            # Where there is no terminal a bar is but a wall of text at the end.
            disable=not console.is_terminal,
        )

    # -- the story ---------------------------------------------------------------------------------

    def run(self) -> int:
        self.story.read = len(self.orders)
        if self.file == SHOP / "orders.csv":
            self.story.faulty = Counter(make_orders.FAULTS)
        self.make_tables()
        with self.progress:
            self.take_in()
            self.let_them_work()
        self.stop_workers()
        return self.judge()

    def make_tables(self) -> None:
        began = time.monotonic()
        with self.engine.connect() as connection:
            version = connection.scalar(text("SHOW server_version"))
            if connection.scalar(text("SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'public')")):
                raise SystemExit("the demo needs an empty database, and this one has tables")
        alembic(self.url, "upgrade", "head")
        clean = alembic(self.url, "check").splitlines()[-1]
        self.say(f"PostgreSQL {version.split()[0]}: alembic upgrade head; alembic check: {clean}", began)

    def start_workers(self) -> None:
        for number in range(1, WORKERS + 1):
            # The first one, which will be killed, writes invoices only.
            queues = ("--queues", "invoices") if number == 1 else ()
            self.workers.append(Worker.start(self.url, f"shop-worker-{number}", self.logs, *OPTIONS, *queues))
        self.say(f"{WORKERS} workers start: sqla-jobs worker shop.tasks:jobs --threads {THREADS} …")

    def take_in(self) -> None:
        began = last = time.monotonic()
        self.bar = self.progress.add_task("orders", total=len(self.orders), note="")
        self.jobs_bar = self.progress.add_task("jobs", total=0, note="")
        for place, row in enumerate(self.orders):
            if place == len(self.orders) // 2:
                self.start_workers()
            try:
                self.story.taken.append(imports.take_in(self.sessions, row))
            except imports.Refused as refusal:
                self.story.refused[refusal.reason] += 1
                self.story.examples.setdefault(refusal.reason, f"line {row.line}: {refusal}")
            refused = self.story.refused.total()
            self.progress.update(self.bar, advance=1, note=f"[yellow]{refused} refused[/]")
            if time.monotonic() - last > 0.2:
                last = time.monotonic()
                self.look()
        self.say(
            f"{len(self.story.taken):,} orders taken in; {self.story.refused.total():,} faulty ones "
            "rolled back, and their jobs with them",
            began,
        )

    def let_them_work(self) -> None:
        began = time.monotonic()
        self.until(lambda: self.look() == 0)
        self.say("nothing is queued, waiting or running any more", began)

    def look(self) -> int:
        """See how far the workers are, and kill one when the time has come; returns the jobs left."""
        with Session(self.engine) as session:
            states = Counter({row.state: row.jobs for row in session.execute(text(STATES))})
            retried = session.scalar(text(FAILED_ATTEMPTS))
            crashed = session.scalar(text("SELECT count(*) FROM sqla_jobs WHERE crashes > 0"))
        self.check_workers()
        if self.killed_at and not self.rescued and crashed >= len(self.story.running_at_kill):
            self.rescued = True
            self.say("the other workers have rescued what it ran", self.killed_at)
        finished = states["succeeded"] + states["failed"]
        note = f"[red]{states['failed']} failed[/] [yellow]{retried} failed attempts[/]"
        self.progress.update(self.jobs_bar, completed=finished, total=states.total(), note=note)
        if self.workers and not self.story.killed and finished >= self.story.read // 3:
            self.kill(self.workers[0])
        self.finished = finished
        return states.total() - finished

    def kill(self, victim: Worker) -> None:
        """SIGKILL, at a moment when it runs jobs."""
        mine = {"name": victim.name, "pid": victim.pid}
        if not self.numbers(RUNNING_UNDER, **mine):
            return
        # Frozen first, so that what it runs cannot end between the look and the kill.
        victim.send(signal.SIGSTOP)
        self.until(lambda: self.number(BUSY_BACKENDS, **mine) == 0)
        if not self.numbers(RUNNING_UNDER, **mine):
            victim.send(signal.SIGCONT)
            return
        victim.send(signal.SIGKILL)
        victim.process.wait()
        self.killed_at, self.story.killed = time.monotonic(), 1
        # What it had sent before it was frozen the server may have read only now.
        self.until(lambda: self.number(BACKENDS, **mine) == 0)
        self.story.running_at_kill = running = self.numbers(LEFT_RUNNING, **mine)
        jobs = "1 job" if len(running) == 1 else f"{len(running)} jobs"
        self.say(f"[bold red]kill -9 {victim.pid}[/]: {victim.name} dies while it runs {jobs}")

    def stop_workers(self) -> None:
        began = time.monotonic()
        # One may still be starting: a signal before it works ends it like any program.
        self.until(lambda: self.number(WORKING) == WORKERS - self.story.killed)
        survivors = [worker for worker in self.workers if worker.process.poll() is None]
        self.story.survivors = WORKERS - self.story.killed
        self.story.must_kill = self.story.read >= ENOUGH
        for worker in survivors:
            worker.send(signal.SIGTERM)
        self.story.stopped = [worker.process.wait(timeout=30) for worker in survivors]
        self.say("SIGTERM: the workers have stopped", began)

    def judge(self) -> int:
        if self.story.refused:
            self.console.print("\nRefused orders, and the first of each kind:")
            for reason, count in self.story.refused.most_common():
                self.console.print(
                    f"  {count:3}  {self.story.examples[reason]}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
        with Session(self.engine) as session:
            lines = compare(session, self.story)
        self.console.print()
        self.console.print(table(lines))
        wrong = [line for line in lines if not line.right]
        if wrong:
            self.console.print(f"[bold red]{len(wrong)} of {len(lines)} lines are wrong.[/]")
            return 1
        self.console.print("[green]All is as it must be.[/]")
        return 0

    # -- tools -------------------------------------------------------------------------------------

    def say(self, what: str, began: float | None = None) -> None:
        took = "" if began is None else f"  [dim]{time.monotonic() - began:.1f} s[/]"
        self.console.print(f"[green]✓[/] {what}{took}", highlight=False, soft_wrap=True)

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait for something in the database; fail if a worker ends by itself, or nothing happens."""
        finished, since = self.finished, time.monotonic()
        while not reached():
            self.check_workers()
            if finished != self.finished:
                finished, since = self.finished, time.monotonic()
            if time.monotonic() - since > PATIENCE:
                raise SystemExit(f"nothing happened for {PATIENCE} s:\n{self.workers[-1].tail()}")
            time.sleep(0.05)

    def check_workers(self) -> None:
        for worker in self.workers[self.story.killed :]:
            if worker.process.poll() is not None:
                raise SystemExit(f"{worker.name} ended by itself:\n{worker.tail()}")

    def number(self, sql: str, **values: Any) -> int:
        with Session(self.engine) as session:
            return int(session.scalar(text(sql), values) or 0)

    def numbers(self, sql: str, **values: Any) -> list[int]:
        with Session(self.engine) as session:
            return list(session.scalars(text(sql), values))

    def end(self) -> None:
        """Leave no process behind, whatever has happened."""
        for worker in self.workers:
            worker.end()
        self.engine.dispose()


STATES = "SELECT state, count(*) AS jobs FROM sqla_jobs GROUP BY state"
FAILED_ATTEMPTS = "SELECT coalesce(sum(jsonb_array_length(attempts)), 0) FROM sqla_jobs"
WORKING = "SELECT count(*) FROM sqla_jobs_workers WHERE died_at IS NULL"
BUSY_BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = :name AND state = 'active'"
BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = :name"
RUNNING_UNDER = """
    SELECT job.id FROM sqla_jobs AS job JOIN sqla_jobs_workers AS worker ON worker.id = job.worker_id
    WHERE worker.pid = :pid AND job.state = 'running'
"""
LEFT_RUNNING = f"{RUNNING_UNDER} UNION SELECT id FROM sqla_jobs WHERE crashes > 0"
"""With those that are rescued already."""


def main() -> int:
    parser = argparse.ArgumentParser(description="A shop at work on sqla_jobs.")
    parser.add_argument("--csv", type=Path, default=SHOP / "orders.csv", help="orders of your own")
    parser.add_argument(
        "--database-url", type=make_url, help="an empty database, instead of a PostgreSQL of its own"
    )
    options = parser.parse_args()
    console = Console()
    # A service manager's or a test's way to say Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        try:
            began = time.monotonic()
            orders = list(imports.read(options.csv))
            logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sqla_jobs_shop_logs_")))
            url = options.database_url or stack.enter_context(embedded_postgresql())
            demo = Demo(console, url, options.csv.resolve(), orders, logs)
            stack.callback(demo.end)
            code = demo.run()
            console.print(f"[dim]{time.monotonic() - began:.0f} seconds in all[/]", highlight=False)
            return code
        except imports.BadFile as error:
            console.print(f"[red]{error}[/]", highlight=False, soft_wrap=True)
            return 2
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough: what follows cleans up
            console.print("[yellow]interrupted: stopping the workers and the server[/]")
            return 130


if __name__ == "__main__":
    sys.exit(main())
