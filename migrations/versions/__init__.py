"""The revisions, oldest first by their ``down_revision``. A released one is never edited."""
