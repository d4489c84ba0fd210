"""An application that gets a job queue; each module is one way to write its models."""
