"""The library's own models, and no model of the application that refers to them."""

import sqla_jobs
from shop.without import Base

target_metadata = [Base.metadata, sqla_jobs.metadata]
