"""Limits of a definition; errors name them."""

FILE_BYTES_MAX = 10 * 1024 * 1024
"""Size of one workflow file."""
YAML_NODES_MAX = 1_000_000
"""Scalars, lists and mappings of a file, aliases counted as often as they are used."""
YAML_DEPTH_MAX = 128
"""Nesting of a file."""
PROBLEMS_MAX = 100
"""Problems that one refusal lists."""
NAME_LENGTH_MAX = 128
"""Characters of an id or of a path segment."""
DURATION_MS_MAX = 100 * 366 * 86_400_000
"""A hundred years."""
CALL_DEPTH_MAX = 10
"""Workflows that call each other, one inside the other, the first included; GitHub's own limit."""
CALLS_MAX = 1_000
"""Calls of workflows in one plan."""
FILES_MAX = 50
"""Different files of one plan; GitHub's own limit."""
