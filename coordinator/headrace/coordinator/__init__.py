"""The control plane: the pure core, the shard logs, election and assignment, dispatch, archive."""
