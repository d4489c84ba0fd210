# ruff: noqa: DTZ001, UP007, UP045 - naive datetimes and both spellings of unions are what is tested
"""A call of a task becomes JSON and comes back as it was, or is refused where it was made."""

import collections
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import json
import math
import pathlib
import re
import sys
import threading
import types
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PrivateAttr, SecretStr
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column, relationship
from typing_extensions import NotRequired, TypedDict

from sqla_jobs.arguments import Signature, encode_untyped
from sqla_jobs.errors import (
    ArgumentsNotLoadable,
    ArgumentsNotStorable,
    EnqueueError,
    InvalidArguments,
    TaskDefinitionError,
)
from sqla_jobs.models import Job

BERLIN = ZoneInfo("Europe/Berlin")


# -- types that applications have --------------------------------------------------------------------


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Kind(str, enum.Enum):
    BOOK = "book"


class Perm(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Item:
    name: str
    price: decimal.Decimal
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Tree:
    value: int
    children: "list[Tree]" = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Area:
    width: int
    size: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.size = self.width**2


class Order(BaseModel):
    id: int
    items: list[Item] = []
    placed_at: dt.datetime | None = None
    extra: dict[str, Any] = {}


class Address(TypedDict):
    city: str
    zip: NotRequired[str]


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    # A mapper that cannot be configured yet: nothing here may try to.
    orders: Mapped[list["NowhereYet"]] = relationship()  # type: ignore[name-defined]  # noqa: F821


class DataBase(MappedAsDataclass, DeclarativeBase):
    pass


class Supplier(DataBase):
    __tablename__ = "supplier"
    id: Mapped[int] = mapped_column(primary_key=True)


# -- helpers -----------------------------------------------------------------------------------------


def of(function: Callable[..., Any]) -> Signature:
    return Signature.of(function, "shop.f")


def taking(annotation: Any) -> Signature:
    """The signature of a task with one parameter `value` of this type."""

    def task(session, value): ...

    task.__annotations__["value"] = annotation
    return of(task)


def untyped() -> Signature:
    return of(lambda session, value: None)


def through_json(stored: Any) -> Any:
    return json.loads(json.dumps(stored, allow_nan=False))


def round_trip(annotation: Any, value: Any) -> Any:
    signature = taking(annotation)
    args, kwargs = signature.decode(through_json(signature.encode((value,), {})))
    assert args == ()
    return kwargs["value"]


def refused(
    annotation: Any, value: Any, *words: str, error: type[EnqueueError] = ArgumentsNotStorable
) -> str:
    with pytest.raises(error) as caught:
        taking(annotation).encode((value,), {})
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


def kind_of(value: Any) -> str:
    """A name for pytest: short, the same in each process, and without digits that Python refuses to print."""
    return value.__name__ if isinstance(value, type) else type(value).__name__


def sort(value: Any) -> str:
    """Text that two plain JSON values share only if they are the same, types and signs included."""
    return json.dumps(value, sort_keys=True)


# -- definition --------------------------------------------------------------------------------------


def test_the_first_parameter_is_the_session_whatever_its_name_and_annotation():
    def task(s: "NoSuchSession", a: int) -> "NoSuchResult": ...  # type: ignore[name-defined]  # noqa: F821

    assert str(of(task)) == "shop.f(a: int)"
    assert of(task).encode((1,), {}) == {"a": 1}


def test_no_first_parameter():
    with pytest.raises(
        TaskDefinitionError, match=r"shop\.f: the first parameter must be the Session: def f\("
    ):
        of(lambda: None)


def test_a_first_parameter_that_is_keyword_only():
    with pytest.raises(TaskDefinitionError, match=r"the first is 'session'"):
        of(lambda *, session: None)


def test_a_first_parameter_that_is_var_keyword():
    with pytest.raises(TaskDefinitionError, match=r"the first is '\*\*session'"):
        of(lambda **session: None)


@pytest.mark.parametrize(
    "function", [lambda *args: None, lambda session, *args: None, lambda s, a, *args, k=1: None]
)
def test_var_positional(function):
    with pytest.raises(TaskDefinitionError, match=r"takes \*args, but arguments are stored by name"):
        of(function)


def test_a_generator_function_would_run_nothing():
    def task(session):
        yield 1

    async def atask(session):
        yield 1

    class Callable_:  # noqa: N801
        def __call__(self, session):
            yield 1

    for function in (task, atask, Callable_(), functools.partial(task)):
        with pytest.raises(TaskDefinitionError, match="is a generator function: calling it runs nothing"):
            of(function)


@pytest.mark.parametrize("function", [5, None, "text"])
def test_what_cannot_be_called(function):
    with pytest.raises(TaskDefinitionError, match="has no signature"):
        of(function)


def test_what_has_no_signature():
    class Strange:
        __signature__ = 3

        def __call__(self, session): ...

    with pytest.raises(TaskDefinitionError, match="has no signature"):
        of(Strange())


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Union[Customer, Supplier], "Customer is a mapped class, expected it as Customer, Customer | None, "),
        (tuple[Supplier, int], "Supplier is a mapped class"),
        (list[list[Customer]], "Customer is a mapped class"),
        (Optional[dict[str, Customer]], "Customer is a mapped class"),
        (Annotated[dict[str, Customer], "x"], "Customer is a mapped class"),
        (Session, "Unable to generate pydantic-core schema for <class 'sqlalchemy.orm.session.Session'>"),
        (threading.Lock, "cannot be stored"),
        (Iterator[int], "cannot be stored"),
        (Iterable[int], "can be read only once, expected list[...]"),
        (1, "cannot be stored"),
        ("not a type at all", "'value: not a type at all' cannot be stored"),
        ("int +", "cannot be stored"),
    ],
    ids=kind_of,
)
def test_a_type_that_cannot_be_stored(annotation, words):
    with pytest.raises(TaskDefinitionError) as caught:
        taking(annotation)
    message = str(caught.value)
    assert message.startswith("shop.f: values of parameter 'value: ")
    assert words in message
    assert "Pass the primary key" in message
    assert "arbitrary_types_allowed" not in message


def test_every_kind_of_callable():
    def task(session, a: int, b: str = "x"): ...

    async def coroutine(session, a: int, b: str = "x"): ...

    @functools.wraps(task)
    def wrapped(*args, **kwargs): ...

    class Methods:
        def method(self, session, a: int, b: str = "x"): ...

        @classmethod
        def for_class(cls, session, a: int, b: str = "x"): ...

        @staticmethod
        def static(session, a: int, b: str = "x"): ...

        def __call__(self, session, a: int, b: str = "x"): ...

    class Made:
        def __init__(self, session, a: int, b: str = "x"): ...

    for function in (
        task,
        coroutine,
        wrapped,
        functools.partial(wrapped),
        Methods().method,
        Methods.for_class,
        Methods.static,
        Methods(),
        functools.partial(Methods()),
        Made,
    ):
        signature = of(function)
        assert str(signature) == "shop.f(a: int, b: str = 'x')"
        assert signature.encode(("7",), {"b": "y"}) == {"a": 7, "b": "y"}
        assert signature.decode({"a": 7}) == ((), {"a": 7})


def test_a_partial_gives_defaults():
    def task(session, a: int, *, b: int): ...

    signature = of(functools.partial(task, b=2))
    assert signature.required == ("a",)
    assert signature.encode((1,), {}) == {"a": 1}
    assert signature.encode((1,), {"b": "3"}) == {"a": 1, "b": 3}
    with pytest.raises(TaskDefinitionError, match="the first is 'session"):
        of(functools.partial(task, session=None))


MODULE = """
from __future__ import annotations
import functools, typing
from typing import Annotated, Optional
from pydantic import Field
if typing.TYPE_CHECKING:
    from nowhere import Session, Result, Missing

def task(
    session: Session, at: datetime.datetime, n: Annotated[int, Field(gt=0)], o: Optional[list[Later]] = None
) -> Result: ...
def unresolved(session: Session, a: int, b: Missing, c: broken.Type = None) -> Result: ...
class Methods:
    def __call__(self, session: Session, a: Later) -> Result: ...
    def method(self, session: Session, a: Later) -> Result: ...
@functools.wraps(task)
def wrapped(*args, **kwargs): ...
def strange(session: Session, a: "list[Later]") -> Result: ...
def union(session: Session, a: int | None = None) -> Result: ...
def nothing(session: Session, a: None) -> Result: ...
"""


@pytest.fixture
def module():
    module = types.ModuleType("shop_of_strings")
    exec(MODULE, vars(module))
    return module


def define_later(module):
    module.datetime = dt
    module.Later = Item


@pytest.mark.parametrize("name", ["task", "wrapped"])
def test_annotations_that_are_resolved_at_the_first_call(module, name):
    signature = of(getattr(module, name))
    assert str(signature) == (
        "shop.f(at: datetime.datetime, n: Annotated[int, Field(gt=0)], o: Optional[list[Later]] = None)"
    )
    with pytest.raises(
        TaskDefinitionError, match=r"parameter 'at: datetime.datetime' cannot be resolved: name 'datetime'"
    ):
        signature.encode((dt.datetime(2024, 1, 1), 1), {})
    with pytest.raises(TaskDefinitionError, match="cannot be resolved"):
        signature.decode({"at": "2024-01-01T00:00:00", "n": 1})
    define_later(module)
    stored = signature.encode((dt.datetime(2024, 1, 1), "1"), {"o": [Item("a", decimal.Decimal("1.10"))]})
    assert stored == {"at": "2024-01-01T00:00:00", "n": 1, "o": [{"name": "a", "price": "1.10", "tags": []}]}
    assert signature.decode(stored)[1]["o"] == [Item("a", decimal.Decimal("1.10"))]
    with pytest.raises(InvalidArguments, match="n: Input should be greater than 0; found 0"):
        signature.encode((dt.datetime(2024, 1, 1), 0), {})


def test_annotations_that_are_resolved_at_definition(module):
    define_later(module)
    for function in (module.Methods(), module.Methods().method, module.strange):
        of(function)
    assert of(module.Methods().method).encode(({"name": "a", "price": 1},), {}) == {
        "a": {"name": "a", "price": "1", "tags": []}
    }
    assert of(module.union).encode((), {"a": None}) == {"a": None}
    assert of(module.nothing).encode((None,), {}) == {"a": None}


def test_only_the_parameters_that_are_used_must_be_resolved(module):
    signature = of(module.unresolved)
    with pytest.raises(
        TaskDefinitionError, match=r"'b: Missing' cannot be resolved.*outside `if TYPE_CHECKING:`"
    ):
        signature.encode((1, 2), {})
    with pytest.raises(TaskDefinitionError, match=r"'c: broken.Type = None' cannot be resolved"):
        signature.decode({"c": 3})
    module.Missing = int
    assert signature.encode((1, 2), {}) == {"a": 1, "b": 2}


def test_a_model_that_refers_to_what_is_not_defined_yet():
    namespace: dict[str, Any] = {
        "BaseModel": BaseModel,
        "dataclass": dataclasses.dataclass,
        "__name__": __name__,
    }
    exec(
        "class Cart(BaseModel):\n    lines: 'list[LineOfCart]'\n"
        "@dataclass\nclass Bag:\n    lines: 'list[LineOfCart]'\n"
        "def task(session, cart: Cart): ...\ndef task2(session, bag: Bag): ...\n",
        namespace,
    )
    for name in ("task", "task2"):
        signature = of(namespace[name])
        with pytest.raises(TaskDefinitionError, match=r"cannot be resolved: .*not (fully )?defined"):
            signature.encode(({"lines": [1]},), {})
    globals()["LineOfCart"] = int
    try:
        assert of(namespace["task2"]).encode(({"lines": ["1"]},), {}) == {"bag": {"lines": [1]}}
        namespace["Cart"].model_rebuild(_types_namespace={"LineOfCart": int})
        assert of(namespace["task"]).encode(({"lines": ["1"]},), {}) == {"cart": {"lines": [1]}}
    finally:
        del globals()["LineOfCart"]


# -- the call ----------------------------------------------------------------------------------------


def send_receipt(session: Session, order_id: int, *, copy_to: str | None = None) -> None: ...


RECEIPT = Signature.of(send_receipt, "shop.jobs.send_receipt")
EXPECTED = "shop.jobs.send_receipt(order_id: int, *, copy_to: str | None = None): "


@pytest.mark.parametrize(
    ("args", "kwargs", "problem"),
    [
        ((), {}, "missing argument 'order_id'"),
        ((), {"copy_to": "x"}, "missing argument 'order_id'"),
        ((1, "x"), {}, "expected 1 arguments by position, found 2"),
        ((1,), {"order_id": 1}, "two values for argument 'order_id'"),
        ((1,), {"copyto": "x"}, "unexpected argument 'copyto'; did you mean 'copy_to'?"),
        ((1,), {"zzz": "x"}, "unexpected argument 'zzz'"),
        ((1,), {"session": 1}, "unexpected argument 'session'; the worker passes the Session"),
        (
            ("x",),
            {},
            "order_id: Input should be a valid integer, unable to parse string as an integer; found 'x'",
        ),
        ((None,), {}, "order_id: Input should be a valid integer; found None"),
        (
            (1.5,),
            {},
            "order_id: Input should be a valid integer, got a number with a fractional part; found 1.5",
        ),
        ((1,), {"copy_to": 5}, "copy_to: Input should be a valid string; found 5"),
    ],
)
def test_a_call_that_does_not_fit(args, kwargs, problem):
    with pytest.raises(InvalidArguments) as caught:
        RECEIPT.encode(args, kwargs)
    assert str(caught.value) == EXPECTED + problem
    assert caught.value.task == "shop.jobs.send_receipt"
    assert caught.value.call == EXPECTED[:-2]
    assert caught.value.problem == problem
    assert isinstance(caught.value, TypeError)


def test_all_missing_arguments_are_named():
    with pytest.raises(InvalidArguments, match=r"missing arguments 'a', 'c'$"):
        of(lambda session, a, b=1, *, c: None).encode((), {})


def test_a_default_is_not_stored_but_what_equals_it_is():
    assert RECEIPT.encode((1,), {}) == {"order_id": 1}
    assert RECEIPT.encode((1,), {"copy_to": None}) == {"order_id": 1, "copy_to": None}
    assert RECEIPT.required == ("order_id",)


def test_values_are_converted_as_pydantic_does():
    assert RECEIPT.encode(("7",), {}) == {"order_id": 7}
    assert taking(dt.datetime).encode(("2024-05-06T07:08",), {}) == {"value": "2024-05-06T07:08:00"}


def test_positional_only_parameters_are_stored_by_name_and_passed_by_position():
    def task(session, a: int, b: int = 2, /, c: int = 3, **extra: int): ...

    signature = of(task)
    assert str(signature) == "shop.f(a: int, b: int = 2, /, c: int = 3, **extra: int)"
    assert signature.encode((1,), {}) == {"a": 1}
    assert signature.decode({"a": 1}) == ((1, 2), {})
    assert signature.decode({"b": 5, "a": 1, "c": 6, "d": 7}) == ((1, 5), {"c": 6, "d": 7})
    with pytest.raises(InvalidArguments, match="argument 'a' is positional-only; expected it by position"):
        signature.encode((), {"a": 1})
    # Python would take b=1 as one of **extra, but there is one name b in the row.
    with pytest.raises(InvalidArguments, match="argument 'b' is positional-only"):
        signature.encode((1,), {"b": 1})
    assert signature.encode((), {"a": "1", "b": 2}, by_name=True) == {"a": 1, "b": 2}


def test_var_keyword_arguments_are_stored_by_name():
    def task(session, a, **rest: int): ...

    signature = of(task)
    assert signature.encode((1,), {"x": "2", "y": 3}) == {"a": 1, "x": 2, "y": 3}
    assert signature.decode({"a": 1, "x": 2}) == ((), {"a": 1, "x": 2})
    with pytest.raises(InvalidArguments, match="x: Input should be a valid integer"):
        signature.encode((1,), {"x": "q"})
    with pytest.raises(InvalidArguments, match="unexpected argument 'session'"):
        signature.encode((1,), {"session": 2})
    with pytest.raises(ArgumentsNotLoadable, match="takes no such argument"):
        signature.decode({"a": 1, "session": 2})
    for name in ("x\x00", "\ud800"):
        with pytest.raises(ArgumentsNotStorable):
            signature.encode((1,), {name: 2})


def test_any_name_can_be_an_argument():
    def task(s, /, self, session, name, task, args, kwargs, by_name, stored, *, value): ...

    names = ("self", "session", "name", "task", "args", "kwargs", "by_name", "stored", "value")
    call = dict(zip(names, range(9), strict=True))
    signature = of(task)
    assert signature.encode((), call) == call
    assert signature.encode(tuple(range(8)), {"value": 8}) == call
    assert signature.decode(call) == ((), call)
    assert of(lambda s, /, **rest: None).encode((), {"s": 1, "session": 2}) == {"s": 1, "session": 2}


def test_the_message_shows_annotations_and_defaults_shortly():
    def task(
        session, a, b: Order, c: "Optional[Order]" = None, *, d: Color = Color.RED, e: str = "x" * 1000
    ): ...

    assert str(of(task)).startswith(
        "shop.f(a, b: tests.test_arguments.Order, c: Optional[Order] = None, *,"
        " d: tests.test_arguments.Color = <Color.RED: 'red'>, e: str = 'xxx"
    )
    assert len(str(of(task))) < 400
    assert repr(of(task)).startswith("<Signature shop.f(a, b:")


def test_the_path_to_what_does_not_fit():
    message = refused(
        Order,
        {"id": 1, "items": [{"name": "a", "price": 1}, {"name": "b", "price": "much"}]},
        "value.items[1].price: Input should be a valid decimal; found 'much'",
        error=InvalidArguments,
    )
    assert message.startswith("shop.f(value: tests.test_arguments.Order): ")
    refused(
        dict[int, int], {"x": 1}, "value.x (the key): Input should be a valid integer", error=InvalidArguments
    )


def test_at_most_five_problems_are_told():
    message = refused(list[int], ["x"] * 100, "value[4]: ", "and 95 more", error=InvalidArguments)
    assert "value[5]" not in message


def test_unknown_keys_are_not_dropped():
    refused(Address, {"city": "Bonn", "zpi": "5"}, "value.zpi: Extra inputs", error=InvalidArguments)
    refused(list[Address], [{"city": "Bonn", "zpi": "5"}], "value[0].zpi", error=InvalidArguments)
    refused(Item, {"name": "a", "price": 1, "tagz": []}, "value.tagz: Unexpected", error=InvalidArguments)


def test_a_validator_that_raises_something_else():
    def check(value: int) -> int:
        raise KeyError("surprise")

    annotation = Annotated[int, pydantic.AfterValidator(check)]
    refused(
        annotation, 1, "value: its validation raised KeyError('surprise'); found 1", error=InvalidArguments
    )
    with pytest.raises(ArgumentsNotLoadable, match="its validation raised KeyError"):
        taking(annotation).decode({"value": 1})


def test_what_was_encoded_shares_nothing_with_what_was_given():
    inner = [1]
    for signature in (untyped(), taking(list[list[int]]), taking(Any), taking(list[Any])):
        given_value = [inner]
        stored = signature.encode((given_value,), {})
        inner.append("changed")  # type: ignore[arg-type]
        assert stored == {"value": [[1]]}
        loaded = signature.decode(stored)[1]
        loaded["value"][0].append(2)
        assert stored == {"value": [[1]]}
        inner.pop()


# -- annotated values --------------------------------------------------------------------------------

FIRST, SECOND = (dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=fold) for fold in (0, 1))


@pytest.mark.parametrize(
    ("annotation", "value", "stored"),
    [
        (int, 10**30, 10**30),
        (int, True, 1),
        (bool, True, True),
        (float, 3, 3.0),
        (float, 1e22, 10**22),
        (float, 1e308, 10**308),
        (float, 5e-324, 5e-324),
        (str, "ä\U0001f600", "ä\U0001f600"),
        (bytes, b"\xff\x00", "_wA="),
        (list[bytes], [b"\xff"], ["_w=="]),
        (dt.datetime, dt.datetime(2024, 5, 6, 7, 8, 9, 123456), "2024-05-06T07:08:09.123456"),
        (dt.datetime, dt.datetime(2024, 5, 6, tzinfo=dt.timezone.utc), "2024-05-06T00:00:00Z"),
        (dt.datetime, FIRST, "2024-10-27T02:30:00+02:00"),
        (dt.datetime, SECOND, "2024-10-27T02:30:00+01:00"),
        (dt.date, dt.date(2024, 5, 6), "2024-05-06"),
        (dt.time, dt.time(7, 8, 9, 5), "07:08:09.000005"),
        (dt.timedelta, dt.timedelta(days=-1, microseconds=3), "-PT23H59M59.999997S"),
        (uuid.UUID, uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (decimal.Decimal, decimal.Decimal("1.10"), "1.10"),
        (decimal.Decimal, decimal.Decimal("-0"), "-0"),
        (Color, Color.RED, "red"),
        (Level, Level.HIGH, 2),
        (Kind, Kind.BOOK, "book"),
        (Item, Item("a", decimal.Decimal("2.50"), ["x"]), {"name": "a", "price": "2.50", "tags": ["x"]}),
        (Area, Area(3), {"width": 3, "size": 9}),
        (list[Area], [Area(3)], [{"width": 3, "size": 9}]),
        (Tree, Tree(1, [Tree(2)]), {"value": 1, "children": [{"value": 2, "children": []}]}),
        (Order, Order(id=1), {"id": 1, "items": [], "placed_at": None, "extra": {}}),
        (Address, {"city": "Bonn"}, {"city": "Bonn"}),
        (Point, Point(1, 2.5), [1, 2.5]),
        (list[int], [1, 2], [1, 2]),
        (tuple[int, str], (1, "a"), [1, "a"]),
        (tuple[int, ...], (1, 2), [1, 2]),
        (set[int], {1}, [1]),
        (frozenset[Color], frozenset({Color.RED}), ["red"]),
        (dict[int, dt.date], {1: dt.date(2024, 1, 1)}, {"1": "2024-01-01"}),
        (dict[uuid.UUID, int], {uuid.UUID(int=1): 1}, {"00000000-0000-0000-0000-000000000001": 1}),
        (Mapping[str, int], {"a": 1}, {"a": 1}),
        (Sequence[int], [1], [1]),
        (collections.deque[int], collections.deque([1]), [1]),
        (collections.defaultdict[str, int], collections.defaultdict(int, a=1), {"a": 1}),
        (collections.Counter[str], collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict[str, int], collections.OrderedDict(a=1), {"a": 1}),
        (Literal["a", 1], 1, 1),
        (Union[int, str], "7", "7"),
        (Union[uuid.UUID, str], uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Union[dt.date, dt.datetime], dt.datetime(2024, 1, 1), "2024-01-01T00:00:00"),
        (Union[int, float], 1.0, 1.0),
        (Optional[int], None, None),
        (int | None, 5, 5),
        (Annotated[int, Field(gt=0)], 1, 1),
        (None, None, None),
        (pathlib.PurePosixPath, pathlib.PurePosixPath("/a"), "/a"),
        (pydantic.AnyUrl, pydantic.AnyUrl("http://a.b/"), "http://a.b/"),
        (dict[str, Any], {"a": [1, 1.0, True, None, {"b": "c"}]}, {"a": [1, 1.0, True, None, {"b": "c"}]}),
        (Any, [1, {"a": 2.5}], [1, {"a": 2.5}]),
        (object, "x", "x"),
    ],
    ids=kind_of,
)
def test_annotated_values_come_back(annotation, value, stored):
    encoded = taking(annotation).encode((value,), {})
    assert sort(encoded) == sort({"value": stored})
    again = round_trip(annotation, value)
    if value in (FIRST, SECOND):
        assert again.astimezone(dt.timezone.utc) == value.astimezone(dt.timezone.utc)
    else:
        assert again == value
        assert repr(again) == repr(value) or isinstance(value, (bool, int, float, dt.datetime))


def test_moments_in_a_repeated_or_skipped_hour_come_back_as_the_same_moment():
    skipped = dt.datetime(2024, 3, 31, 2, 30, tzinfo=BERLIN)
    for moment in (FIRST, SECOND, skipped):
        again = round_trip(dt.datetime, moment)
        assert again.utcoffset() == moment.utcoffset()
        assert again.replace(tzinfo=None) == moment.replace(tzinfo=None)
        assert round_trip(list[dt.datetime], [moment])[0] == again


def test_a_datetime_of_a_subclass_comes_back_as_what_is_annotated():
    class FakeDatetime(dt.datetime):
        pass

    assert round_trip(dt.datetime, FakeDatetime(2024, 1, 1)) == dt.datetime(2024, 1, 1)
    assert type(round_trip(dt.datetime, FakeDatetime(2024, 1, 1))) is dt.datetime
    refused(dict[str, Any], {"at": FakeDatetime(2024, 1, 1)}, "value.at = ")


def test_subclasses_become_what_is_annotated():
    class Name(str):
        __slots__ = ()

    assert type(taking(str).encode((Name("x"),), {})["value"]) is str
    assert type(taking(int).encode((Level.HIGH,), {})["value"]) is int
    assert round_trip(float, type("F", (float,), {})(1.5)) == 1.5


class Aliased(BaseModel):
    order_id: int = Field(alias="orderId")
    item: int = Field(validation_alias="theItem")
    total: int = Field(serialization_alias="theTotal")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return self.total * 2


def test_models_with_aliases_and_computed_fields_come_back():
    value = Aliased(orderId=1, theItem=2, total=3)
    assert taking(Aliased).encode((value,), {}) == {"value": {"order_id": 1, "item": 2, "total": 3}}
    assert round_trip(Aliased, value) == value
    # Another producer may write what the model itself writes.
    assert taking(Aliased).decode({"value": {"orderId": 1, "theItem": 2, "total": 3}}) == (
        (),
        {"value": value},
    )


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def b(self) -> int:
        return 1


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


def test_models_with_extra_fields():
    assert round_trip(Closed, Closed(a=1)) == Closed(a=1)
    value = Open(a=1, b=[1, 2])  # type: ignore[call-arg]
    assert round_trip(Open, value) == value
    refused(Open, Open(a=1, b=(1, 2)), "value.b = (1, 2)", "come back as [1, 2] (list)")  # type: ignore[call-arg]


def test_discriminated_unions():
    class Cat(BaseModel):
        kind: Literal["cat"] = Field(alias="type")
        lives: int

    class Dog(BaseModel):
        kind: Literal["dog"] = Field(alias="type")
        name: str

    pet = Annotated[Union[Cat, Dog], Field(discriminator="kind")]
    assert round_trip(pet, Dog(type="dog", name="Rex")) == Dog(type="dog", name="Rex")
    assert round_trip(list[pet], [Cat(type="cat", lives=7)]) == [Cat(type="cat", lives=7)]  # type: ignore[valid-type]


# -- annotated values that would change ---------------------------------------------------------------


class Hidden(BaseModel):
    id: int
    token: str = Field(default="", exclude=True)


class Private(BaseModel):
    id: int
    _note: str = PrivateAttr(default="")


class LooselyEqual(BaseModel):
    id: int
    token: str = Field(default="", exclude=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LooselyEqual) and other.id == self.id


@dataclasses.dataclass
class LooselyEqualData:
    id: int
    note: Annotated[str, Field(exclude=True)] = dataclasses.field(default="", compare=False)


class Special(Order):
    discount: int = 0


def with_note() -> Private:
    value = Private(id=1)
    value._note = "x"
    return value


class Opaque:
    """Its equality is identity, so nothing can be said about it."""

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        core = pydantic_core_schema
        return core.json_or_python_schema(
            json_schema=core.no_info_after_validator_function(cls, core.str_schema()),
            python_schema=core.is_instance_schema(cls),
            serialization=core.plain_serializer_function_ser_schema(lambda opaque: opaque.text),
        )


from pydantic_core import core_schema as pydantic_core_schema  # noqa: E402

TODAY = dt.datetime(2024, 5, 6, 7, 8)


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        (
            dict[str, Any],
            {"at": TODAY},
            ["value.at = datetime", "come back as '2024-05-06T07:08:00' (str)", "annotate"],
        ),
        (dict[str, Any], {"a": [{"b": (1, 2)}]}, ["value.a[0].b = (1, 2)", "come back as [1, 2] (list)"]),
        (dict[str, Any], {"a": Level.LOW}, ["value.a = <Level.LOW: 1>", "(int)"]),
        (dict[str, Any], {"a": Kind.BOOK}, ["value.a", "(str)"]),
        (dict[str, Any], {"a": 1e22}, ["value.a = 1e+22", "(int)"]),
        (dict[str, Any], {"a": {1: 2}}, ["value.a = {1: 2}"]),
        (dict[str, Any], {"a": {1, 2}}, ["value.a", "(list)"]),
        (dict[str, Any], {"a": math.nan}, ["value.a = nan", "None"]),
        (dict[str, Any], {"a": uuid.UUID(int=1)}, ["value.a", "(str)"]),
        (dict[Any, Any], {1: 2}, ["value = {1: 2}"]),
        (dict[Any, Any], {True: 2}, ["value = {True: 2}"]),
        (list[Any], [Item("a", decimal.Decimal(1))], ["value[0] = Item", "(dict)"]),
        (Order, Order(id=1, extra={"at": TODAY}), ["value.extra.at = datetime"]),
        (list[Order], [Order(id=1), Order(id=2, extra={"at": TODAY})], ["value[1].extra.at"]),
        (float, math.nan, ["value = nan", "JSON has no such number"]),
        (float, -math.inf, ["value = -inf"]),
        (list[float], [1.0, -0.0], ["value[1] = -0.0", "sign of zero"]),
        (str, "a\x00b", ["value = 'a\\x00b'", "no NUL", "at 1", "bytes"]),
        (str, "\ud800", ["'\\ud800'", "lone surrogates"]),
        (dict[str, int], {"a\x00": 1}, ["NUL"]),
        (list[str], ["ok", "\udfff"], ["value[1]", "lone surrogates"]),
        (SecretStr, SecretStr("hunter2"), ["a secret is masked"]),
        (dict[str, Any], {"p": SecretStr("hunter2")}, ["value.p", "a secret is masked"]),
        (list[SecretStr], ["hunter2"], ["value[0]", "a secret is masked"]),
        (Hidden, Hidden(id=1, token="x"), ["value.token = 'x'", "come back as ''"]),
        (LooselyEqual, LooselyEqual(id=1, token="x"), ["value.token"]),
        (LooselyEqualData, LooselyEqualData(1, "x"), ["value.note"]),
        (Private, with_note(), ["value._note = 'x'"]),
        (Order, Special(id=1, discount=5), ["Special", "(Order)"]),
        (
            Order,
            Order.model_construct(id="seven"),
            ["would not be taken back: id: Input should be a valid integer"],
        ),
        (Annotated[int, pydantic.AfterValidator(lambda v: v * 2)], 3, ["value = 6", "come back as 12 (int)"]),
        (
            Annotated[dt.datetime, PlainSerializer(lambda v: v.isoformat()[:10])],
            TODAY,
            ["come back as datetime"],
        ),
        (
            Annotated[float, PlainSerializer(lambda v: round(v, 1))],
            1.25,
            ["value = 1.25", "come back as 1.2"],
        ),
        (
            Annotated[list[int], PlainSerializer(lambda v: v[:1])],
            [1, 2],
            ["value = [1, 2]", "come back as [1]"],
        ),
        (Annotated[set[int], PlainSerializer(lambda v: [])], {1}, ["value = {1}", "come back as set()"]),
        (Annotated[dict[str, int], PlainSerializer(lambda v: {})], {"a": 1}, ["come back as {}"]),
        (Annotated[int, PlainSerializer(lambda v: "x")], 5, ["its JSON 'x' would not be taken back"]),
        (
            re.Pattern[str],
            re.compile("a", re.IGNORECASE),
            ["re.compile('a', re.IGNORECASE)", "come back as re.compile('a')"],
        ),
        (Callable[[], int], len, ["cannot be written as JSON"]),
        (Sequence[int], (1, 2), ["come back as [1, 2] (list)"]),
        (collections.OrderedDict[str, int], collections.OrderedDict(b=1, a=2), ["order of keys"]),
        (dict[str, Any], {"a": collections.OrderedDict(b=1, a=2)}, ["value.a"]),
        (collections.deque[int], collections.deque([1], maxlen=3), ["does not keep its maxlen"]),
        (Literal[Color.RED], Color.RED, ["would not be taken back"]),
        (dt.datetime, dt.datetime(1890, 1, 1, tzinfo=BERLIN), ["value = datetime"]),
        (dt.time, dt.time(12, tzinfo=BERLIN), ["tzinfo=zoneinfo"]),
        (list[Iterable[int]], [[1]], ["value[0]", "can be read only once"]),
        (int, 10**5000, ["digits", "bytes"]),
        (float | int, 10**4400, ["digits"]),
    ],
    ids=kind_of,
)
def test_annotated_values_that_would_change_are_refused(annotation, value, words):
    message = refused(annotation, value, "shop.f: value", "cannot be stored: ", *words)
    assert "hunter2" not in message


def test_a_type_without_an_equality_of_its_own_is_trusted():
    assert round_trip(Opaque, Opaque("x")).text == "x"
    assert round_trip(list[Opaque], [Opaque("x")])[0].text == "x"


def test_an_object_that_cannot_be_compared_or_copied_is_trusted():
    class Rude(Opaque):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise ValueError("ambiguous")

    class Unique(Opaque):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return False

        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("no copies")

    assert round_trip(Rude, Rude("x")).text == "x"
    assert round_trip(Unique, Unique("x")).text == "x"


def test_nan_is_no_difference_where_it_is_written_as_text():
    text = Annotated[float, PlainSerializer(str)]
    assert math.isnan(round_trip(text, math.nan))
    assert round_trip(text, -math.inf) == -math.inf
    assert math.copysign(1, round_trip(text, -0.0)) == -1


def test_keys_are_compared_as_what_they_are():
    for moment in (FIRST, SECOND):
        ((again, value),) = round_trip(dict[dt.datetime, int], {moment: 7}).items()
        assert (again.utcoffset(), value) == (moment.utcoffset(), 7)
        assert len(round_trip(set[dt.datetime], {moment, TODAY.replace(tzinfo=BERLIN)})) == 2
    refused(set[Any], {1.5, (1, 2)}, "value = ")
    refused(set[Any], {TODAY}, "value = ", "(set)")
    refused(dict[Any, int], {1: 5}, "value = {1: 5}", "{'1': 5} (dict)")
    # Neither 1.0 nor True may pass for 1.
    loosely = Annotated[set[Any], PlainSerializer(lambda value: [1])]
    refused(loosely, {True}, "value = True")
    refused(loosely, {1.0}, "value = 1.0")


def test_private_attributes_of_no_meaning_are_no_difference():
    class Locked(BaseModel):
        id: int
        _lock: Any = PrivateAttr(default_factory=threading.Lock)
        _unset: int = PrivateAttr()

    assert round_trip(Locked, Locked(id=1)).id == 1


def test_what_only_the_annotation_knows_is_not_lost():
    value = Hidden(id=1)
    assert round_trip(Hidden, value) == value
    secret = Annotated[SecretStr, PlainSerializer(lambda secret: secret.get_secret_value())]
    assert round_trip(secret, SecretStr("x")) == SecretStr("x")


# -- values without annotation ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -5,
        2**70,
        10**4200,
        0.0,
        1.5,
        9.9e15,
        5e-324,
        "",
        "ä",
        "\U0001f600",
        [],
        {},
        [[[]]],
        {"": {"a b": [1, 1.0, True, None]}},
    ],
    ids=kind_of,
)
def test_plain_json_comes_back(value):
    for signature in (untyped(), taking(Any), taking(object)):
        stored = signature.encode((value,), {})
        assert sort(stored["value"]) == sort(value)
        assert sort(signature.decode(through_json(stored))[1]["value"]) == sort(value)
    assert encode_untyped("shop.f", {"value": value}) == {"value": value}


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (TODAY, ["value = datetime", "a datetime is not plain JSON", "annotate it"]),
        (uuid.UUID(int=1), ["a UUID is not plain JSON", "annotate it"]),
        (decimal.Decimal("1.5"), ["a Decimal is not plain JSON"]),
        (b"x", ["a bytes is not plain JSON"]),
        ((1, 2), ["a tuple would come back as a list", "annotate it"]),
        ({1}, ["a set would come back as a list"]),
        (Point(1), ["a Point would come back as a list"]),
        (Color.RED, ["a Color is not plain JSON"]),
        (Level.LOW, ["a Level would come back as a plain int"]),
        (Text("x"), ["a Text would come back as a plain str"]),
        (type("F", (float,), {})(1), ["a F would come back as a plain float"]),
        (collections.OrderedDict(a=1), ["a OrderedDict would come back as a plain dict"]),
        (Item("a", decimal.Decimal(1)), ["value = Item(", "a Item is not plain JSON"]),
        (Order(id=1), ["a Order is not plain JSON"]),
        (object(), ["a object is not plain JSON"]),
        ({1: 2}, ["value[1] = 2", "its key is not text", "dict[int, str]"]),
        ({Text("x"): 2}, ["its key is not text"]),
        ({"items": [{"price": 1}, {"price": decimal.Decimal(1)}]}, ["value.items[1].price = Decimal('1')"]),
        ({"a b": [TODAY]}, ["value['a b'][0] = datetime"]),
        (math.nan, ["value = nan", "JSON has no such number"]),
        ([math.inf], ["value[0] = inf"]),
        (-0.0, ["value = -0.0", "sign of zero", "pass 0.0"]),
        (1e16, ["value = 1e+16", "give it back as an int", "annotate it with float"]),
        (10**5000, ["digits", "pass bytes"]),
        ("\x00", ["no NUL", "bytes"]),
        (["\ud83d"], ["value[0] = '\\ud83d'", "lone surrogates"]),
        ({"\x00": 1}, ["value['\\x00'] = '\\x00'", "no NUL"]),
        ({"a": {"\udc00": 1}}, ["lone surrogates"]),
        (
            Supplier(id=1),
            ["it is a mapped object", "pass its primary key", "annotate it with its"],
        ),
    ],
    ids=kind_of,
)
def test_what_is_not_plain_json_is_refused(value, words):
    refused(Any, value, *words)
    for encode in (
        lambda: untyped().encode((value,), {}),
        lambda: of(lambda session, **rest: None).encode((), {"value": value}),
        lambda: encode_untyped("shop.f", {"value": value}),
    ):
        with pytest.raises(ArgumentsNotStorable) as caught:
            encode()
        assert str(caught.value).startswith("shop.f: value")
        assert " cannot be stored: " in str(caught.value)
        for word in words:
            assert word in str(caught.value)


def test_a_value_without_its_task_says_so():
    with pytest.raises(
        ArgumentsNotStorable, match="The task is not registered here: where it is, its annotations"
    ):
        encode_untyped("shop.f", {"a": TODAY})
    with pytest.raises(ArgumentsNotStorable, match="NUL"):
        encode_untyped("shop.f", {"a\x00": 1})


def test_more_digits_than_jsonb_holds():
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        assert untyped().encode((10**131_071,), {}) == {"value": 10**131_071}
        refused(Any, 10**131_072, "it has 131073 digits, JSONB at most 131072")
    finally:
        sys.set_int_max_str_digits(before)


def test_an_engine_is_refused_without_being_used():
    engine = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nowhere")
    refused(Any, engine, "a Engine is not plain JSON")


def nested(levels: int, leaf: Any = None) -> Any:
    value = [] if leaf is None else leaf
    for _ in range(levels - (leaf is None)):
        value = [value]
    return value


@pytest.mark.parametrize("annotation", [Any, list, list[Any], dict[str, Any] | list[Any]], ids=kind_of)
def test_deep_values(annotation):
    assert round_trip(annotation, nested(200)) == nested(200)
    refused(annotation, nested(201), "nested deeper than 200 levels")
    refused(annotation, nested(500))


@pytest.mark.parametrize("annotation", [Any, list, list[Any], Tree], ids=kind_of)
def test_values_that_contain_themselves(annotation):
    value: Any = Tree(1) if annotation is Tree else []
    (value.children if annotation is Tree else value).append(value)
    message = refused(annotation, value)
    assert "contains itself" in message or "Circular reference" in message or "cannot be written" in message


class Link(TypedDict):
    next: "NotRequired[Link]"


def test_a_typed_value_that_contains_itself():
    link: Any = {}
    link["next"] = link
    refused(Link, link, "value = {'next': ", "contains itself")


def test_a_validation_that_has_no_end():
    def check(value: int) -> int:
        return check(value)

    refused(Annotated[int, pydantic.AfterValidator(check)], 1, "contains itself, or is nested deeper")


def test_values_deeper_than_python_can_go():
    value = nested(50_000)
    try:
        for annotation in (Any, list, list[Any], dict[str, Any] | list[Any]):
            refused(annotation, value)
    finally:
        while value:
            value = value.pop()


def test_deep_models():
    tree = Tree(0)
    for number in range(150):
        tree = Tree(number, [tree])
    # Two levels each.
    refused(Tree, tree, "nested deeper than 200 levels")


# -- decode ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "argument", "value", "words"),
    [
        ([1], None, [1], ["the arguments cannot be loaded from [1]", "expected a JSON object"]),
        (None, None, None, ["from None"]),
        ("x", None, "x", ["from 'x'"]),
        (
            {},
            "order_id",
            {},
            ["argument 'order_id' cannot be loaded from {}: it is missing", "needs a default"],
        ),
        ({"copy_to": "x"}, "order_id", {"copy_to": "x"}, ["it is missing"]),
        (
            {"order_id": 1, "old": 5},
            "old",
            5,
            ["argument 'old' cannot be loaded from 5", "takes no such argument"],
        ),
        ({"order_id": "x"}, "order_id", "x", ["from 'x': order_id: Input should be a valid integer"]),
        ({"order_id": None}, "order_id", None, ["Input should be a valid integer; found None"]),
        ({"order_id": 1, "copy_to": [1]}, "copy_to", [1], ["Input should be a valid string"]),
        ({"order_id": 1, "session": 1}, "session", 1, ["takes no such argument"]),
        ({"order_id": decimal.Decimal("1.5")}, "order_id", decimal.Decimal("1.5"), ["not plain JSON"]),
    ],
)
def test_what_cannot_be_loaded(stored, argument, value, words):
    before = copy.deepcopy(stored)
    with pytest.raises(ArgumentsNotLoadable) as caught:
        RECEIPT.decode(stored)
    error = caught.value
    assert (error.task, error.argument, error.value) == ("shop.jobs.send_receipt", argument, value)
    assert str(error).startswith("shop.jobs.send_receipt: ")
    for word in words:
        assert word in str(error)
    assert stored == before


def test_what_cannot_be_loaded_is_shown_shortly():
    with pytest.raises(ArgumentsNotLoadable) as caught:
        RECEIPT.decode({"order_id": "x" * 10_000})
    assert len(str(caught.value)) < 1000


def test_the_path_to_what_cannot_be_loaded():
    with pytest.raises(ArgumentsNotLoadable, match=r"value\.items\[0\]\.price: Input should be"):
        taking(Order).decode({"value": {"id": 1, "items": [{"name": "a", "price": "much"}]}})
    with pytest.raises(ArgumentsNotLoadable, match=r"value\.zip: Extra|value\.zpi: Extra"):
        taking(Address).decode({"value": {"city": "Bonn", "zpi": 1}})
    with pytest.raises(ArgumentsNotLoadable, match=r"value\[0\]: a Decimal is not plain JSON"):
        untyped().decode({"value": [decimal.Decimal(1)]})


def test_what_other_producers_write():
    assert taking(decimal.Decimal).decode({"value": 12.5}) == ((), {"value": decimal.Decimal("12.5")})
    assert taking(int).decode({"value": "7"}) == ((), {"value": 7})
    assert taking(float).decode({"value": 10**308}) == ((), {"value": 1e308})
    assert taking(dt.datetime).decode({"value": "2024-05-06 07:08"}) == ((), {"value": TODAY})
    assert untyped().decode({"value": 10**22}) == ((), {"value": 10**22})


def test_a_new_parameter_with_a_default_takes_old_jobs():
    stored = of(lambda session, a: None).encode((1,), {})
    assert of(lambda session, a, b=2: None).decode(stored) == ((), {"a": 1})


def test_threads_may_share_a_signature_that_is_not_resolved_yet(module):
    signature = of(module.task)
    define_later(module)
    barrier = threading.Barrier(8)
    results: list[Any] = []

    def call() -> None:
        barrier.wait()
        results.append(signature.encode((TODAY, 1), {}))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [{"at": "2024-05-06T07:08:00", "n": 1}] * 8


# -- properties --------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
SCALARS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=False, allow_infinity=False).filter(lambda f: str(f) != "-0.0")),
    (str, TEXT),
    (bytes, st.binary(max_size=8)),
    (None, st.none()),
    (dt.datetime, st.datetimes()),
    (dt.datetime, st.datetimes(timezones=st.just(dt.timezone.utc))),
    (dt.datetime, st.datetimes(min_value=dt.datetime(1950, 1, 1), timezones=st.just(BERLIN))),
    (dt.date, st.dates()),
    (dt.time, st.times()),
    (dt.timedelta, st.timedeltas()),
    (uuid.UUID, st.uuids()),
    (decimal.Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (Color, st.sampled_from(Color)),
    (Level, st.sampled_from(Level)),
    (Kind, st.sampled_from(Kind)),
    (Literal["a", 2], st.sampled_from(["a", 2])),
    (Point, st.builds(Point, st.integers(), st.just(2.5))),
    (Item, st.builds(Item, TEXT, st.decimals(allow_nan=False, allow_infinity=False), st.lists(TEXT))),
    (Order, st.builds(Order, id=st.integers(), placed_at=st.none() | st.datetimes())),
    (Address, st.fixed_dictionaries({"city": TEXT}, optional={"zip": TEXT})),
]
HASHABLE = [
    pair
    for pair in SCALARS
    if pair[0] not in (Item, Order, Address, Point, bytes, None, float, Literal["a", 2])
]


@st.composite
def typed_values(draw: st.DrawFn, depth: int = 2) -> tuple[Any, Any]:
    """A type, and a value of it."""
    shape = (
        draw(st.sampled_from(["scalar", "list", "tuple", "set", "dict", "optional"])) if depth else "scalar"
    )
    if shape == "set":
        annotation, values = draw(st.sampled_from(HASHABLE))
        return set[annotation], draw(st.sets(values, max_size=3))
    if shape == "dict":
        key, keys = draw(st.sampled_from(HASHABLE))
        annotation, value = draw(typed_values(depth=depth - 1))
        return dict[key, annotation], dict.fromkeys(draw(st.sets(keys, max_size=3)), value)
    if shape == "scalar":
        annotation, values = draw(st.sampled_from(SCALARS))
        return annotation, draw(values)
    annotation, value = draw(typed_values(depth=depth - 1))
    if shape == "list":
        return list[annotation], [value] * draw(st.integers(0, 2))
    if shape == "tuple":
        other, second = draw(typed_values(depth=depth - 1))
        return tuple[annotation, other], (value, second)
    return Optional[annotation], draw(st.sampled_from([value, None]))


def in_utc(value: Any) -> Any:
    """The same value with its moments in UTC, as a job sees them wherever it runs."""
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return value.replace(tzinfo=None) - (value.utcoffset() or dt.timedelta(0))
    if isinstance(value, (list, tuple)) and not isinstance(value, Point):
        return type(value)(in_utc(item) for item in value)
    if isinstance(value, set):
        return {in_utc(item) for item in value}
    if isinstance(value, dict):
        return {in_utc(key): in_utc(item) for key, item in value.items()}
    return value


@given(typed_values())
@settings(max_examples=400, deadline=None)
def test_typed_values_come_back(pair):
    annotation, value = pair
    again = round_trip(annotation, value)
    assert type(again) is type(value)
    assert in_utc(again) == in_utc(value)


JSONISH = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.just(1e300)
    | st.datetimes(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 3), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


def storable(value: Any) -> bool:
    """Independently of the code under test: does JSONB give this back as it is?"""
    if type(value) is str:
        return "\x00" not in value and not re.search("[\ud800-\udfff]", value)
    if type(value) is float:
        return math.isfinite(value) and abs(value) < 1e16 and str(value) != "-0.0"
    if type(value) is list:
        return all(map(storable, value))
    if type(value) is dict:
        return all(type(key) is str and storable(key) and storable(item) for key, item in value.items())
    return value is None or type(value) in (bool, int)


# -- a real JSONB column -----------------------------------------------------------------------------


def through_postgres(session: Session, arguments: dict[str, Any]) -> Any:
    job = Job(task="shop.f", arguments=arguments)
    session.add(job)
    session.flush()
    session.refresh(job)
    found = job.arguments
    session.expunge(job)
    return found


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_typed_values_come_back_from_postgres(session, data):
    annotation, value = data.draw(typed_values())
    signature = taking(annotation)
    again = signature.decode(through_postgres(session, signature.encode((value,), {})))[1]["value"]
    assert type(again) is type(value)
    assert in_utc(again) == in_utc(value)


@given(JSONISH)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_plain_values_come_back_from_postgres_or_are_refused(session, value):
    for signature in (untyped(), taking(dict[str, Any] | list[Any] | Any)):
        if storable(value):
            stored = signature.encode((value,), {})
            assert sort(signature.decode(through_postgres(session, stored))[1]["value"]) == sort(value)
        else:
            with pytest.raises(ArgumentsNotStorable):
                signature.encode((value,), {})


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (float, 1e16),
        (float, 1.7976931348623157e308),
        (float, 1e23),
        (float, 123456789012345680000.0),
        (float, 5e-324),
        (float, 2.2250738585072014e-308),
        (list[float], [1e22, 0.1, -1e300]),
        (int, -(10**4200)),
        (Any, 10**4200),
        (Any, nested(200)),
        (str, '\U0010ffff\u2028\\"\x01\x7f'),
        (dict[str, str], {'\U0010ffff\u2028\\"\x01': "x"}),
        (bytes, bytes(range(256))),
    ],
    ids=kind_of,
)
def test_the_corners_of_jsonb(session, annotation, value):
    signature = taking(annotation)
    again = signature.decode(through_postgres(session, signature.encode((value,), {})))[1]["value"]
    assert again == value
    assert type(again) is type(value)
