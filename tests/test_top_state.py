"""`sqla-jobs top`: what keys and looks make of its state. No terminal, no database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sqla_jobs.cli.top.facts import (
    Action,
    Away,
    Command,
    Do,
    Fresh,
    Key,
    Look,
    Panel,
    Quit,
    Resized,
    Said,
    Silent,
    Snapshot,
    Wish,
)
from sqla_jobs.cli.top.state import State, step
from tests.support.looked import NOW, ago, detail, job, queue, running, shop, worker


def press(state: State, *keys: str) -> tuple[State, list[Command]]:
    """Press keys; what they ask for together."""
    asked: list[Command] = []
    for key in keys:
        state, commands = step(state, Key(key))
        asked += commands
    return state, asked


@pytest.fixture
def state() -> State:
    return step(State("shop", 2), Fresh(shop()))[0]


def at(state: State, panel: Panel) -> State:
    return replace(state, focus=panel)


def look(state: State, **parts: object) -> State:
    assert state.snapshot is not None
    return step(state, Fresh(replace(state.snapshot, wish=state.wish, **parts)))[0]  # type: ignore[arg-type]


# -- move ----------------------------------------------------------------------------------------------


def test_keys_move_within_a_panel(state: State) -> None:
    marks = []
    for key in ("j", "down", "down", "k", "up", "up", "G", "g", "pagedown", "pageup", "end", "home"):
        state, asked = press(state, key)
        marks.append(state.marked(Panel.QUEUES))
        assert not asked
    assert marks == [1, 2, 2, 1, 0, 0, 2, 0, 2, 0, 2, 0]


def test_tab_goes_round_the_panels_and_each_keeps_its_mark(state: State) -> None:
    state, _ = press(state, "j")
    seen = []
    for _ in Panel:
        state, _ = press(state, "tab")
        seen.append(state.focus)
    assert seen == [Panel.WORKERS, Panel.RUNNING, Panel.WAITING, Panel.FAILURES, Panel.QUEUES]
    assert press(state, "backtab")[0].focus is Panel.FAILURES
    assert press(state, "left", "right")[0].focus is Panel.QUEUES
    assert state.current().name == "mail"


def test_the_mark_stays_with_its_row_when_others_come_before_it(state: State) -> None:
    state, _ = press(at(state, Panel.FAILURES), "j")
    assert state.current().id == 3
    before = state.snapshot
    assert before is not None
    failures = (job(9, state="failed"), job(8, state="failed"), *before.jobs[Panel.FAILURES])
    state = look(state, jobs={**before.jobs, Panel.FAILURES: failures})
    assert (state.current().id, state.marked(Panel.FAILURES)) == (3, 3)
    state = look(state, jobs={Panel.FAILURES: failures[:2]})
    assert state.current().id == 8, "gone: where it was, as far as there are rows"


def test_a_panel_without_rows_has_nothing_to_move_to(state: State) -> None:
    state = look(state, queues=())
    for key in ("j", "k", "G", "enter", "p"):
        state, asked = press(state, key)
        assert (state.current(), asked) == (None, [])


def test_before_the_first_look_keys_do_no_harm() -> None:
    for key in ("j", "enter", "p", "r", "c", "tab", "/", "x", "escape"):
        state, _ = press(State("shop", 2), key)
        assert state.asking is None
    assert press(State("shop", 2), "q")[1] == [Quit()]


# -- act -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("panel", "keys", "action"),
    [
        (Panel.QUEUES, "p", Action("pause", "default")),
        (Panel.QUEUES, "jp", Action("resume", "mail")),
        (Panel.RUNNING, "jc", Action("cancel", 832)),
        (Panel.WAITING, "c", Action("cancel", 840)),
        (Panel.WAITING, "jr", Action("retry", 841)),
        (Panel.FAILURES, "r", Action("retry", 7)),
    ],
    ids=lambda value: value if isinstance(value, (str, Panel)) else value.verb,
)  # fmt: skip
def test_actions_ask_first(state: State, panel: Panel, keys: str, action: Action) -> None:
    asking, asked = press(at(state, panel), *keys)
    assert asking.asking is not None
    assert (replace(asking.asking, about=""), asked) == (action, [])
    for no in ("n", "escape", "q", "enter", "N"):
        after, asked = press(asking, no)
        assert (after.asking, after.said, asked) == (None, Said("nothing was done"), [])
    for other in ("j", "p", "c", "tab", " ", "/", "?"):
        assert press(asking, other) == (asking, []), "neither yes nor no"
    after, asked = press(asking, "y")
    assert (asked, after.asking) == ([Do(asking.asking)], None)
    assert press(after, "y") == (replace(after, said=None), []), "once"


@pytest.mark.parametrize(
    ("panel", "key"),
    [(panel, key) for panel in Panel for key, panels in
     {"p": {Panel.QUEUES}, "r": {Panel.WAITING, Panel.FAILURES}, "c": {Panel.RUNNING, Panel.WAITING}}.items()
     if panel not in panels],
)  # fmt: skip
def test_in_another_panel_a_key_says_where_it_works(state: State, panel: Panel, key: str) -> None:
    after, asked = press(at(state, panel), key)
    assert (asked, after.asking) == ([], None)
    assert after.said is not None
    assert not after.said.good
    assert after.said.text.startswith(f"{key} ")


def test_what_is_asked_about_stays_it_whatever_is_looked_at_meanwhile(state: State) -> None:
    state, _ = press(at(state, Panel.FAILURES), "r")
    assert state.snapshot is not None
    state = look(state, jobs={Panel.FAILURES: (job(99, state="failed"),)})
    [done] = press(state, "y")[1]
    assert isinstance(done, Do)
    assert done.action.target == 7


@pytest.mark.parametrize(("panel", "key"), [(Panel.QUEUES, "p"), (Panel.RUNNING, "c"), (Panel.FAILURES, "r")])
def test_read_only_asks_nothing(state: State, panel: Panel, key: str) -> None:
    state = replace(at(state, panel), read_only=True)
    after, asked = press(state, key, "y")
    assert (asked, after.asking) == ([], None)
    told, _ = press(state, key)
    assert told.said == Said("read-only: started with --read-only", good=False)


def test_what_was_done_is_said_until_the_next_key(state: State) -> None:
    said = Said("job 7 is queued")
    state, _ = step(state, said)
    assert look(state).said == said
    assert press(state, "j")[0].said is None


# -- filter --------------------------------------------------------------------------------------------


def test_a_filter_is_typed_and_holds_for_queues_and_jobs(state: State) -> None:
    state, asked = press(state, "/", "M", "A")
    assert asked == [Look(Wish("M")), Look(Wish("MA"))]
    assert [row.name for row in state.rows(Panel.QUEUES)] == ["mail"]
    assert [row.id for row in state.rows(Panel.RUNNING)] == [832]
    assert [row.id for row in state.rows(Panel.FAILURES)] == [3]
    assert len(state.rows(Panel.WORKERS)) == 2
    state, _ = press(state, "backspace", "enter")
    assert (state.typing, state.wish.filter) == (None, "M")
    state, asked = press(state, "escape")
    assert (asked, len(state.rows(Panel.QUEUES))) == ([Look(Wish())], 3)


def test_a_filter_matches_tasks_too(state: State) -> None:
    state, _ = press(state, "/", *"charge", "enter")
    assert [row.id for row in state.rows(Panel.FAILURES)] == [7]


def test_while_a_filter_is_typed_letters_are_letters(state: State) -> None:
    state, asked = press(state, "/", "q", "p", "c", "y")
    assert state.wish.filter == "qpcy"
    assert all(isinstance(each, Look) for each in asked)
    assert press(state, "clear")[0].wish.filter == ""
    assert press(state, "escape")[0].typing is None
    assert press(state, *(["backspace"] * 5))[0].typing is None
    assert len(press(state, *("x" * 200))[0].wish.filter) == 100


def test_enter_on_a_queue_shows_only_its_jobs(state: State) -> None:
    state, asked = press(state, "j", "enter")
    assert asked == [Look(Wish("mail"))]


# -- one job -------------------------------------------------------------------------------------------


def test_enter_opens_a_job_and_escape_closes_it(state: State) -> None:
    state, asked = press(at(state, Panel.FAILURES), "enter")
    assert asked == [Look(Wish(job=7))]
    assert not state.gone, "it is still to be read"
    state = look(state, detail=detail(7))
    assert state.snapshot is not None
    assert state.snapshot.detail == detail(7)
    for key in ("escape", "q", "enter", "backspace", "h"):
        closed, asked = press(state, key)
        assert (closed.wish.job, asked) == (None, [Look(Wish())])
        assert closed.snapshot is not None
        assert closed.snapshot.detail is None


def test_a_job_that_is_not_there_is_gone(state: State) -> None:
    state, _ = press(at(state, Panel.FAILURES), "enter")
    assert look(state).gone


def test_enter_on_a_worker_opens_what_it_runs(state: State) -> None:
    assert press(at(state, Panel.WORKERS), "enter")[1] == [Look(Wish(job=831))]
    after, asked = press(at(state, Panel.WORKERS), "j", "enter")
    assert (asked, after.said) == ([], Said("this worker runs nothing", good=False))


def test_a_look_from_before_the_job_was_opened_does_not_close_it(state: State) -> None:
    state, _ = press(at(state, Panel.FAILURES), "enter")
    state = look(state, detail=detail(7))
    state, _ = step(state, Fresh(replace(shop(), wish=Wish())))
    assert state.snapshot is not None
    assert state.snapshot.detail == detail(7)


def test_it_scrolls_as_far_as_there_are_lines(state: State) -> None:
    trace = "\n".join(f"line {number}" for number in range(100))
    state, _ = press(at(state, Panel.FAILURES), "enter")
    state = look(state, detail=detail(7, attempts=[{"attempt": 1, "error": "E", "traceback": trace}]))
    end, _ = press(state, "G")
    assert end.scroll > 60
    assert press(end, "j", "pagedown")[0].scroll == end.scroll
    assert press(end, "k")[0].scroll == end.scroll - 1
    assert press(state, "pagedown")[0].scroll == 24 - 3
    assert press(end, "g")[0].scroll == 0
    taller, _ = step(end, Resized(80, 200))
    assert taller.scroll == 0
    assert look(end, detail=detail(7)).scroll == 0


def test_a_job_that_is_shown_can_be_retried_and_cancelled(state: State) -> None:
    state, _ = press(at(state, Panel.FAILURES), "enter")
    assert press(state, "r")[0].asking is None, "not before it is seen"
    state = look(state, detail=detail(7))
    assert press(state, "r", "y")[1] == [Do(Action("retry", 7, " (shop.tasks.ship, failed)"))]
    assert press(state, "c", "y")[1] == [Do(Action("cancel", 7, " (shop.tasks.ship, failed)"))]
    assert press(replace(state, read_only=True), "r", "y")[1] == []


# -- looks ---------------------------------------------------------------------------------------------


def test_parts_that_are_late_are_those_of_before(state: State) -> None:
    before = state.snapshot
    assert before is not None
    late = frozenset({"queues", "workers", "buckets", "states", *Panel})
    after = look(replace(state), queues=(), workers=(), buckets=(), states={}, jobs={}, late=late).snapshot
    assert after == replace(before, late=late, wish=Wish())
    some = look(state, queues=(), jobs={Panel.RUNNING: ()}, late=frozenset({Panel.FAILURES})).snapshot
    assert some is not None
    assert (some.queues, some.jobs[Panel.RUNNING], len(some.jobs[Panel.FAILURES])) == ((), (), 2)


def test_while_the_database_is_away_the_last_look_stays(state: State) -> None:
    away, asked = step(state, Away("the database is away: no", 4.0))
    assert (away.snapshot, asked) == (state.snapshot, [])
    silent, _ = step(away, Silent(12))
    assert silent.silent is not None
    back = look(silent)
    assert (back.away, back.silent) == (None, None)
    assert step(silent, Away("no", 1.0))[0].silent is None


def test_help_and_a_look_at_once(state: State) -> None:
    shown, _ = press(state, "?")
    assert shown.help
    assert press(shown, "q") == (state, []), "any key closes it, and does nothing else"
    assert press(state, " ")[1] == [Look(Wish())]


def test_rows_are_known_by_what_does_not_change() -> None:
    seen = Snapshot(NOW, queues=(queue("a"),), workers=(worker(5, running=[running(1)]),))
    state, _ = step(State("shop", 2), Fresh(seen))
    state = look(state, queues=(queue("0"), queue("a", paused_at=ago(1))), workers=(worker(4), worker(5)))
    assert (state.current().name, state.marked(Panel.WORKERS)) == ("a", 1)
