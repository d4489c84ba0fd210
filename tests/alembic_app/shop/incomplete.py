"""The same models, but target_metadata lacks the library's."""

from shop.default import Base

target_metadata = Base.metadata
