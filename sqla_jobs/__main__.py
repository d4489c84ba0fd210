"""``python -m sqla_jobs``: the command line, where its script is not on the PATH."""

from sqla_jobs.cli import main

if __name__ == "__main__":
    main()
