"""`file/*` and `artifact/*`. Relative paths lie in the workspace."""

from __future__ import annotations

from headrace.language._handlers._spec import HandlerSpec, InputField, field, out, text

_PATH = out("string", "Where it is.")
_SIZE = out("integer", "Its size in bytes.")

FILES = (
    HandlerSpec(
        name="file/read",
        description="Reads a file of at most 64 MiB.",
        inputs={
            "path": text("The file.", required=True),
            "encoding": text("Encoding of the text, or base64.", default="utf-8"),
            "format": InputField(
                description="How to read it.", default="text", options=("text", "json")
            ),
        },
        outputs={
            "content": out("string", "The text."),
            "result": out("any", "The text, or with `format: json` the value in it."),
            "size": _SIZE,
            "path": _PATH,
        },
        example="""\
- run: echo '{"port":8080}' > settings.json
- id: settings
  uses: file/read
  with: {path: settings.json, format: json}
- run: test "${{ steps.settings.outputs.result.port }}" = 8080
""",
    ),
    HandlerSpec(
        name="file/write",
        description="Writes a file at once: whole, or not at all.",
        inputs={
            "path": text("The file.", required=True),
            "content": field("any", "Text as it is, anything else as JSON.", required=True),
            "make-folders": field("boolean", "Make the folders that are missing.", True),
            "append": field("boolean", "Add to the end instead.", False),
            "mode": text("Permissions, octal.", default=""),
            "encoding": text("Encoding of the text, or base64.", default="utf-8"),
        },
        outputs={"path": _PATH, "size": _SIZE},
        example="""\
- uses: file/write
  with:
    path: out/settings.json
    content: {port: 8080}
    mode: "0640"
- run: grep 8080 out/settings.json
""",
    ),
    HandlerSpec(
        name="file/copy",
        description="Copies a file or a folder.",
        inputs={
            "source": text("From.", required=True),
            "destination": text("To; with a slash at the end, into this folder.", required=True),
            "overwrite": field("boolean", "Replace what is there.", True),
        },
        outputs={"path": _PATH, "size": out("integer", "Size of a file.", always=False)},
        example="""\
- run: echo data > a.txt
- uses: file/copy
  with: {source: a.txt, destination: copies/}
- run: test -f a.txt -a -f copies/a.txt
""",
    ),
    HandlerSpec(
        name="file/move",
        description="Moves or renames a file or a folder, from one file system to another too.",
        inputs={
            "source": text("From.", required=True),
            "destination": text("To; with a slash at the end, into this folder.", required=True),
            "overwrite": field("boolean", "Replace a file that is there.", True),
        },
        outputs={"path": _PATH, "size": out("integer", "Size of a file.", always=False)},
        example="""\
- run: echo data > a.txt
- uses: file/move
  with: {source: a.txt, destination: done/a.txt}
- run: test ! -e a.txt -a -f done/a.txt
""",
    ),
    HandlerSpec(
        name="file/archive",
        description="Packs files and folders into a tar.gz, tar or zip file.",
        inputs={
            "source": field("texts", "Files, folders or patterns such as `out/**`.", required=True),
            "destination": text("The archive; its ending names the format.", required=True),
            "format": InputField(
                description="Format, where the ending does not say it.",
                default="",
                options=("", "tar.gz", "tar", "zip"),
            ),
            "base": text("Folder that names in the archive are relative to.", default=""),
        },
        outputs={
            "path": _PATH,
            "size": _SIZE,
            "files": out("integer", "Number of files in it."),
        },
        example="""\
- run: mkdir -p out && echo a > out/a.txt && echo b > out/b.txt
- id: packed
  uses: file/archive
  with: {source: out, destination: out.tar.gz}
- run: test "${{ steps.packed.outputs.files }}" = 2
""",
    ),
    HandlerSpec(
        name="file/extract",
        description=(
            "Unpacks a tar.gz, tar or zip file. Names that leave the folder, links that point out "
            "of it, devices, and more than the limits are refused before anything stays behind."
        ),
        inputs={
            "source": text("The archive.", required=True),
            "destination": text("Folder; it is made where it is missing.", default="."),
            "format": InputField(
                description="Format, where the ending does not say it.",
                default="",
                options=("", "tar.gz", "tar", "zip"),
            ),
            "max-bytes": field("integer", "Most bytes of all files together.", 1024 * 1024 * 1024),
            "max-files": field("integer", "Most files and folders.", 100_000),
        },
        outputs={
            "path": out("string", "The folder."),
            "size": out("integer", "Bytes of all files together."),
            "files": out("integer", "Number of files."),
        },
        example="""\
- run: mkdir in && echo a > in/a.txt && tar -czf in.tgz in
- uses: file/extract
  with: {source: in.tgz, destination: unpacked}
- run: test -f unpacked/in/a.txt
""",
    ),
    HandlerSpec(
        name="file/transfer",
        description=(
            "Copies one file between the workspace and S3-compatible storage, or within one of "
            "them. Names may hold {date} (2024-05-31), {time} (235959), {datetime} "
            "(20240531T235959Z), {year}, {month}, {day}, {run}, {workflow}, all in UTC, and "
            "{name}, the source's file name."
        ),
        inputs={
            "source": text("Path or s3://bucket/key.", required=True),
            "destination": text(
                "Path or s3://bucket/key; with a slash at the end, into this folder.",
                required=True,
            ),
            "endpoint": text(
                "URL of the storage; empty: that of AWS, or $AWS_ENDPOINT_URL.", default=""
            ),
            "region": text("Region; empty: $AWS_REGION, or us-east-1.", default=""),
            "access-key": text(
                "Access key; empty: what the worker's environment says.", default=""
            ),
            "secret-key": text("Secret key, most often a secret.", default=""),
            "session-token": text("Token of a temporary access.", default=""),
            "timeout": field("duration", "Longest wait for one exchange with the storage.", 60),
            "overwrite": field("boolean", "Replace what is there.", True),
        },
        outputs={
            "source": out("string", "From where, filled in."),
            "destination": out("string", "To where, filled in."),
            "path": out("string", "The file, where the destination is one.", always=False),
            "size": _SIZE,
        },
        extra="s3",
        example="""\
- run: echo 'create table t (x int);' > dump.sql
- id: backup
  uses: file/transfer
  with:
    source: dump.sql
    destination: s3://backups/{date}/{name}
    endpoint: ${{ vars.S3_ENDPOINT }}
    access-key: ${{ vars.S3_ACCESS_KEY }}
    secret-key: ${{ secrets.S3_SECRET_KEY }}
- run: echo "stored as ${{ steps.backup.outputs.destination }}"
""",
    ),
)

ARTIFACTS = (
    HandlerSpec(
        name="artifact/upload",
        description=(
            "Keeps files of the workspace with the run, packed under one name: in the cluster's "
            "object store, or in a folder with `flowctl run`. `flowctl artifacts RUN` lists them."
        ),
        inputs={
            "name": text("Name, letters, digits and . _ -", default="artifact"),
            "path": field(
                "texts",
                "Files, folders or patterns such as `out/**`; one a line, or a list.",
                required=True,
            ),
            "if-no-files-found": InputField(
                description="What to do when nothing matches.",
                default="warn",
                options=("warn", "error", "ignore"),
            ),
            "overwrite": field(
                "boolean", "Replace an artifact of this name; else that is an error.", False
            ),
            "max-bytes": field(
                "integer", "Largest packed size; the cluster has a limit too.", 128 * 1024 * 1024
            ),
        },
        outputs={
            "name": out("string", "Its name."),
            "size": out("integer", "Packed size in bytes; 0: nothing was kept."),
            "files": out("integer", "Number of files in it."),
            "digest": out("string", "SHA-256 of the packed files."),
        },
        example="""\
- run: mkdir out && echo 42 > out/report.txt
- uses: artifact/upload
  with: {name: report, path: out}
""",
    ),
    HandlerSpec(
        name="artifact/download",
        description="Unpacks an artifact that an earlier step of the run has uploaded.",
        inputs={
            "name": text("Name of the artifact.", default="artifact"),
            "path": text("Folder to unpack into.", default="."),
        },
        outputs={
            "path": out("string", "The folder."),
            "size": out("integer", "Bytes of all files together."),
            "files": out("integer", "Number of files."),
        },
        example="""\
- run: mkdir out && echo 42 > out/report.txt
- uses: artifact/upload
  with: {name: report, path: out}
- uses: artifact/download
  with: {name: report, path: copy}
- run: grep 42 copy/report.txt
""",
    ),
)
