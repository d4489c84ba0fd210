"""What is said if the libraries of the extra are not there."""

from __future__ import annotations

from sqla_jobs.errors import ConfigurationError


def missing(what: str, error: ImportError) -> ConfigurationError:
    """The refusal of what needs a library that cannot be imported."""
    return ConfigurationError(f"{what} needs the extra `metrics` ({error}): pip install 'sqla-jobs[metrics]'")
