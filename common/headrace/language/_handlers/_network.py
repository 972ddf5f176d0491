"""`http/request` and `notify/webhook`."""

from __future__ import annotations

from headrace.language._handlers._spec import HandlerSpec, InputField, field, out, text

HTTP = HandlerSpec(
    name="http/request",
    description=(
        "Sends one HTTP request. Connection errors and the statuses 408, 425, 429 and 5xx are "
        "worth another attempt; others, and an answer that is not as expected, are not."
    ),
    inputs={
        "url": text("http or https.", required=True),
        "method": text("GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS.", default="GET"),
        "headers": field("object", "Headers.", {}),
        "query": field("object", "Query parameters, added to the URL.", {}),
        "body": field("any", "Body: text as it is, anything else as JSON."),
        "json": field("any", "Body as JSON, text too."),
        "form": field("object", "Body as a form (application/x-www-form-urlencoded)."),
        "auth": field(
            "object",
            "{username, password}, {bearer}, or {header, value} for a header of your own.",
        ),
        "timeout": field("duration", "Longest wait for one exchange.", 30),
        "retries": field("integer", "Further tries within this attempt of the step, 0 to 20.", 0),
        "retry-delay": field(
            "duration",
            "Pause before the first of them; it doubles, to 60 s at most. An answer's Retry-After "
            "counts where it is longer.",
            1,
        ),
        "follow-redirects": field("boolean", "Follow redirects.", True),
        "max-bytes": field("integer", "Largest answer.", 32 * 1024 * 1024),
        "save-to": text(
            "File in the workspace for the body, instead of the output `body`.", default=""
        ),
        "expect-status": field(
            "any", "Status that counts as success, 200 or 2xx, or a list; else any below 400.", []
        ),
        "expect-body": field("texts", "Text that the body must hold, or a list.", []),
        "expect-headers": field("object", "Headers that the answer must have, with values.", {}),
        "expect-json": field(
            "object", "Values in a JSON answer by their path, such as `items.0.id`.", {}
        ),
    },
    outputs={
        "status": out("integer", "The status."),
        "headers": out("object", "Headers, their names in small letters."),
        "body": out("string", "The body as text; empty with `save-to`."),
        "result": out("any", "The parsed body where it is JSON, else its text."),
        "json": out("any", "The parsed body.", always=False),
        "path": out("string", "The file, with `save-to`.", always=False),
        "size": out("integer", "Bytes of the body."),
        "tries": out("integer", "Requests that were sent."),
    },
    at_most_one=(("body", "json", "form"),),
    example="""\
- id: order
  uses: http/request
  with:
    url: ${{ vars.API }}/orders
    method: POST
    json: {item: book, count: 2}
    auth: {bearer: "${{ secrets.API_TOKEN }}"}
    retries: 3
    expect-status: [200, 201]
    expect-json: {status: accepted}
- run: test "${{ steps.order.outputs.json.id }}" = 7
""",
)

NOTIFY = HandlerSpec(
    name="notify/webhook",
    description=(
        "Sends a message to a webhook: as Slack, Mattermost and others take it ({text, …}), as "
        "Discord does ({content}), or as plain JSON with the run's facts."
    ),
    inputs={
        "url": text("Address of the webhook; most often a secret.", required=True),
        "message": text("The text.", required=True),
        "format": InputField(
            description="Form of the body.",
            default="slack",
            options=("slack", "discord", "json"),
        ),
        "title": text("A line above the message.", default=""),
        "level": InputField(
            description="Shown as a colour where the format has one.",
            default="info",
            options=("info", "success", "warning", "error"),
        ),
        "fields": field("object", "Facts to list below the message.", {}),
        "channel": text("Channel, where the webhook lets one choose.", default=""),
        "username": text("Name of the sender, where the webhook lets one choose.", default=""),
        "headers": field("object", "Further headers.", {}),
        "timeout": field("duration", "Longest wait for one exchange.", 10),
        "retries": field("integer", "Further tries within this attempt of the step, 0 to 20.", 3),
    },
    outputs={
        "status": out("integer", "The status of the answer."),
        "tries": out("integer", "Requests that were sent."),
    },
    example="""\
- uses: notify/webhook
  with:
    url: ${{ secrets.WEBHOOK_URL }}
    title: Nightly backup
    message: Run ${{ run.id }} is done.
    level: success
    fields: {size: 12 MB, files: 3}
""",
)
