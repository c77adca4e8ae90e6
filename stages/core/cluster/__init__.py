"""Stages on many machines: Dask hands them out, a DVC remote carries what they read and make.

DVC stays the only truth here too. A worker runs `dvc repro` in a clone of its own and pushes what
came out, with DVC's run cache; the caller then asks its own DVC for the stage, which finds the
result in the run cache. Prefect's tasks stay with the caller, so that a worker needs neither
Prefect nor a way to its server.
"""
