"""The compiled workflow: immutable data, addressed by its digest, pinned by each run.

A plan is a tree of nodes, numbered depth first, so that every subtree is a contiguous slice
(`Node.size` nodes from the node's own index). Strings that contain ``${{`` are expressions; all
other values are plain JSON. Nothing here reads a file, a clock or a network.
"""

from headrace.plan._graph import (
    FAIRNESS_KEY_MAX,
    FAIRNESS_WEIGHT_MAX,
    FAIRNESS_WEIGHT_MIN,
    Call,
    Choice,
    Concurrency,
    Debounce,
    EventTrigger,
    Group,
    InputSpec,
    Join,
    Lock,
    Loop,
    Node,
    OnFailure,
    Plan,
    Position,
    RateLimit,
    Schedule,
    SecretSpec,
    Sleep,
    Subworkflow,
    Task,
    TriggerRule,
    Wait,
    decode_plan,
    encode_plan,
    is_expression,
    plan_digest,
)
from headrace.plan._inputs import check_inputs, fit_inputs
from headrace.plan._items import ITEMS_MAX, expand_items
from headrace.plan._outline import match_nodes, node_facts, node_paths, plan_facts, same_node
from headrace.plan._validate import validate_plan

__all__ = [
    "FAIRNESS_KEY_MAX",
    "FAIRNESS_WEIGHT_MAX",
    "FAIRNESS_WEIGHT_MIN",
    "ITEMS_MAX",
    "Call",
    "Choice",
    "Concurrency",
    "Debounce",
    "EventTrigger",
    "Group",
    "InputSpec",
    "Join",
    "Lock",
    "Loop",
    "Node",
    "OnFailure",
    "Plan",
    "Position",
    "RateLimit",
    "Schedule",
    "SecretSpec",
    "Sleep",
    "Subworkflow",
    "Task",
    "TriggerRule",
    "Wait",
    "check_inputs",
    "decode_plan",
    "encode_plan",
    "expand_items",
    "fit_inputs",
    "is_expression",
    "match_nodes",
    "node_facts",
    "node_paths",
    "plan_digest",
    "plan_facts",
    "same_node",
    "validate_plan",
]
