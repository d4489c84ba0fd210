"""Filters: each by itself on real rows, as texts and back, and what cannot be."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from sqla_jobs import Job, JobState, inspection, lifecycle
from sqla_jobs.errors import InvalidFilter, InvalidOption
from sqla_jobs.inspection import JobFilter, count_jobs, list_jobs
from sqla_jobs.outcome import decide
from tests.support.verbs import MINUTE, NOW, SECOND, add, claimed, employ


def found(session: Session, where: JobFilter) -> list[int]:
    """The jobs of a filter; that as many are counted is looked at too."""
    page = list_jobs(session, Job, where, now=NOW)
    assert count_jobs(session, Job, where, now=NOW).number == len(page.jobs)
    return sorted(each.id for each in page.jobs)


# -- each by itself --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["task", "queue", "worker_id"])
def test_by_a_value(session: Session, name: str) -> None:
    value: Any = 7 if name == "worker_id" else "mine"
    mine = [add(session, state=state, **{name: value}).id for state in ("queued", "running", "scheduled")]
    add(session, **{name: 8 if name == "worker_id" else "other"})
    assert found(session, JobFilter(**{name: value})) == mine
    for state, job_id in zip(("queued", "running", "scheduled"), mine, strict=True):
        assert found(session, JobFilter(states=(JobState(state),), **{name: value})) == [job_id]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("order", "id"), 7),
        (("order", "id"), 7.0),
        (("order",), {"id": 7}),
        (("lines", "1"), "b"),
        (("lines",), ["a", "b"]),
        (("note",), 'it\'s 100 % {"odd"} \\ :x'),
        (("paid",), None),
        (("a.b", "c=d"), True),
    ],
    ids=["int", "float", "object", "index", "list", "text", "null", "odd-path"],
)
def test_by_an_argument(session: Session, path: tuple[str, ...], value: Any) -> None:
    arguments = {
        "order": {"id": 7},
        "lines": ["a", "b"],
        "note": 'it\'s 100 % {"odd"} \\ :x',
        "paid": None,
        "a.b": {"c=d": True},
    }
    job = add(session, arguments=arguments)
    add(session, arguments={"order": {"id": "7"}, "lines": "b"})
    where = JobFilter(arguments=((path, value),))
    assert found(session, where) == [job.id]
    assert found(session, JobFilter.parse(where.to_query())) == [job.id]
    assert found(session, JobFilter(arguments=((path, "other"),))) == []


def test_what_is_redacted_cannot_be_guessed(session: Session) -> None:
    add(session, arguments={"card": {"number": "4242"}, "order": 7}, meta={"redact": ["card"]})
    open_one = add(session, arguments={"card": {"number": "4242"}, "order": 7}, meta={"trace": {}})
    plain = add(session, arguments={"card": {"number": "4242"}})
    assert found(session, JobFilter(arguments=((("card", "number"), "4242"),))) == [open_one.id, plain.id]
    assert len(found(session, JobFilter(arguments=((("order",), 7),)))) == 2


def test_by_the_error_of_the_last_attempt(session: Session) -> None:
    employ(session)

    def failed(error: Exception, **values: Any) -> int:
        job = claimed(session, **values)
        lifecycle.finish(session, Job, job, decide(None, error, lambda _: None), now=NOW)
        return job.id

    first = failed(ValueError("The Card has 100% expired_"))
    second = failed(KeyError("x"))
    failed_once = failed(ValueError("the card is odd"))
    lifecycle.retry(session, Job, failed_once, now=NOW)
    assert found(session, JobFilter(error="the card")) == [first, failed_once]
    assert found(session, JobFilter(error="VALUEERROR: the")) == [first, failed_once]
    assert found(session, JobFilter(error="0% exp")) == [first]
    assert found(session, JobFilter(error="d_")) == [first]  # no pattern
    assert found(session, JobFilter(states=(JobState.FAILED,), error="keyerror")) == [second]
    (job,) = [lifecycle.claim(session, Job, 77, now=NOW)[0]]
    lifecycle.finish(session, Job, job, decide(None, None, lambda _: None), now=NOW)
    assert found(session, JobFilter(error="the card")) == [first]  # it has succeeded after all


def test_by_age(session: Session) -> None:
    old, young = add(session, created_at=NOW - 10 * MINUTE).id, add(session, created_at=NOW - MINUTE).id
    assert found(session, JobFilter(older_than=10 * MINUTE)) == [old]
    assert found(session, JobFilter(newer_than=10 * MINUTE)) == [young]
    assert found(session, JobFilter(older_than=SECOND, newer_than=MINUTE * 11)) == [old, young]
    assert found(session, JobFilter(older_than=2 * MINUTE, newer_than=5 * MINUTE)) == []


def test_all_of_it_together(session: Session) -> None:
    mine = {"task": "t", "queue": "q", "worker_id": 7, "arguments": {"a": 1}, "created_at": NOW - MINUTE}
    job = add(session, **mine)
    for name, other in {
        "task": "x",
        "queue": "x",
        "worker_id": 8,
        "arguments": {},
        "created_at": NOW,
    }.items():
        add(session, **{**mine, name: other})
    where = JobFilter.parse(
        {
            "state": ["queued", "failed"],
            "task": "t",
            "queue": "q",
            "worker": "7",
            "arg": "a=1",
            "older_than": "1m",
        }
    )
    assert found(session, where) == [job.id]


# -- texts -----------------------------------------------------------------------------------------


def test_texts() -> None:
    where = JobFilter.parse(
        [
            ("state", "failed, queued"), ("state", "failed"), ("task", "shop.pay"), ("queue", "mail"),
            ("worker", "7"), ("schedule", "nightly"), ("arg", "order.id=7"), ("arg", r"a\.b.c\=d=x=y"),
            ("arg", "empty="), ("error", "Timeout"), ("older_than", "90s"), ("newer_than", "1.5h"),
        ]
    )  # fmt: skip
    assert where == JobFilter(
        states=(JobState.FAILED, JobState.QUEUED),
        task="shop.pay",
        queue="mail",
        worker_id=7,
        schedule="nightly",
        arguments=((("order", "id"), 7), (("a.b", "c=d"), "x=y"), (("empty",), "")),
        error="Timeout",
        older_than=dt.timedelta(seconds=90),
        newer_than=dt.timedelta(minutes=90),
    )
    assert JobFilter.parse(where.to_query()) == where
    assert dict(where.to_query())["newer_than"] == "90m"


def test_empty_fields_of_a_form_say_nothing() -> None:
    assert (
        JobFilter.parse({"state": "", "task": "", "arg": [""], "worker": "", "older_than": ""}) == JobFilter()
    )
    assert not JobFilter()
    assert JobFilter(task="t")


TEXT = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\x00\\"), min_size=1, max_size=20
)
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.just(""),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@given(
    st.builds(
        JobFilter,
        states=st.lists(st.sampled_from(JobState), unique=True).map(tuple),
        task=st.none() | TEXT,
        worker_id=st.none() | st.integers(0, 2**63 - 1),
        arguments=st.lists(
            st.tuples(st.lists(TEXT, min_size=1, max_size=3).map(tuple), VALUE), max_size=3
        ).map(tuple),
        error=st.none() | TEXT,
        newer_than=st.none() | st.timedeltas(dt.timedelta(0), dt.timedelta(days=36_525)),
    )
)
def test_texts_of_any_filter_make_it_again(where: JobFilter) -> None:
    assert JobFilter.parse(where.to_query()) == where
    assert json.dumps([list(each) for each in where.to_query()])


# -- what cannot be --------------------------------------------------------------------------------

BAD = {
    "state": ({"state": "lost"}, "state is 'lost'; expected one of scheduled, queued, running"),
    "name": ({"stat": "failed"}, "filter is 'stat'; expected one of state, task, .*; did you mean state?"),
    "twice": ([("task", "a"), ("task", "b")], r"task is \['a', 'b'\]; expected one of it"),
    "queue": ({"queue": "a b"}, "queue is 'a b'; expected 1 to 63 out of A-Z"),
    "worker": ({"worker": "-1"}, "worker is '-1'; expected the id of a worker, a whole number such as 7"),
    "worker-long": ({"worker": "9" * 30}, "worker is '999.*expected the id of a worker"),
    "worker-unicode": ({"worker": "\u0667"}, "expected the id of a worker"),
    "worker-large": ({"worker": str(2**63)}, "expected the id of a worker"),
    "arg": ({"arg": "order"}, "arg is 'order'; expected a path, '=' and a value, such as order.id=7"),
    "arg-path": ({"arg": "=7"}, "arg is '=7'; expected a path"),
    "arg-hole": ({"arg": "a..b=7"}, "arg is 'a..b=7'; expected a path"),
    "arg-nul": ({"arg": 'a="\\u0000"'}, "arg is .*; expected at most 10,000 characters, without NUL"),
    "arg-surrogate": ({"arg": 'a="\\ud800"'}, "arg is .*; expected at most 10,000 characters"),
    "arg-long": ({"arg": "a=" + "x" * 10_001}, "arg is 'x.*; expected at most 10,000 characters"),
    "args": ([("arg", f"a{each}=1") for each in range(21)], "arg is 21; expected at most 20 of them"),
    "nul": ({"task": "a\x00"}, "task is .*; expected a text of 1 to 1,000 characters, without NUL"),
    "long": ({"error": "x" * 1001}, "error is 'x.*; expected a text of 1 to 1,000 characters"),
    "age": ({"older_than": "a week"}, "older_than is 'a week'; expected a number with s, m, h, d or w"),
    "age-none": ({"newer_than": "15"}, "newer_than is '15'; expected a number with s, m, h, d or w"),
    "age-long": ({"newer_than": "99999w"}, "newer_than is '99999w'; expected .* at most 100 years"),
    "ages": (
        {"older_than": "2h", "newer_than": "2h"},
        "newer_than is '2h'; expected more than older_than, which is 2h",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_texts_that_say_nothing_are_refused(name: str) -> None:
    texts, told = BAD[name]
    with pytest.raises(InvalidFilter, match=told) as raised:
        JobFilter.parse(texts)  # type: ignore[arg-type]
    assert isinstance(raised.value, InvalidOption)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "values",
    [
        {"states": "failed"},
        {"states": ("lost",)},
        {"states": 7},
        {"task": 7},
        {"task": ""},
        {"worker_id": "7"},
        {"worker_id": True},
        {"arguments": {"a": 1}},
        {"arguments": (("a", 1),)},
        {"arguments": (((), 1),)},
        {"arguments": ((("a",), {1, 2}),)},
        {"arguments": ((("a",), float("nan")),)},
        {"older_than": 7},
        {"older_than": dt.timedelta(-1)},
    ],
    ids=lambda values: "-".join(f"{name}-{value!r}" for name, value in values.items()),
)
def test_values_that_cannot_be_are_refused(values: Any) -> None:
    with pytest.raises(InvalidFilter, match="expected"):
        JobFilter(**values)


def test_what_is_no_filter_is_refused(session: Session) -> None:
    for call in (list_jobs, count_jobs):
        with pytest.raises(InvalidFilter, match="where is 'failed'; expected a JobFilter"):
            call(session, Job, "failed")  # type: ignore[operator]


def test_no_session_is_refused() -> None:
    with pytest.raises(InvalidOption, match="expected a Session, scoped_session, AsyncSession"):
        inspection.list_jobs(7)  # type: ignore[call-overload]
