"""The coordinator process: owners and standbys of shards, put together from the adapters.

Only here (and in `headrace.local`) do the log, the control plane, dispatch and archive meet.
"""
