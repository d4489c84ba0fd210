"""The revisions, one line of them. A released one is never edited.

A revision runs in a transaction of the application's: no CONCURRENTLY, no `autocommit_block()`. It names
everything, in `op.f()`, so that no naming convention of the application's gets at it; works in
`target_schema()`; lists all names it brings in `brought`; imports no models, which move on; and leaves
the marker last. New columns go last in the models too: `create_all` must make what the revisions make.
"""
