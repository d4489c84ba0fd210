"""The queues that sqla_jobs is compared with; each module needs its queue installed."""
