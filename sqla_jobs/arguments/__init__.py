"""A call of a task <-> the JSON in the row.

Arguments are stored by name, in the form that pydantic gives to values of the parameter's annotation;
a parameter without annotation takes plain JSON. `encode` refuses, at enqueue, whatever would not come
back from JSONB as it is: each value is read back before it is stored.

    signature    binds a call to the names of a function's parameters, and back
    returned     what a task returns, kept as its result
    parameter    one parameter, and what its annotation makes of its values
    values       plain JSON, and all that pydantic has a schema for
    objects      mapped objects: the primary key is stored
    untyped      the arguments of a task that is not registered here
    functions    what a function says of itself
    hidden       errors without the values that are not to be shown
    given        the mapped objects that a job was given, until they have one
    faithful     what JSONB can hold, and whether a value that was read back is the same
"""

from sqla_jobs.arguments.faithful import JSON
from sqla_jobs.arguments.given import Given, given_to, keep, put
from sqla_jobs.arguments.returned import Returned
from sqla_jobs.arguments.signature import Signature
from sqla_jobs.arguments.untyped import encode_untyped

__all__ = ["JSON", "Given", "Returned", "Signature", "encode_untyped", "given_to", "keep", "put"]
