"""A vector index in one SQLite file: plain SQL, and numpy for the distances.

Each collection has vectors of one length, from one model: mixing them finds nothing, so it is
refused. Writing the same chunk again changes nothing, so a step that is run again does no harm.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from headrace.ai.splitting import Chunk
from headrace.worker.handlers import HandlerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BUSY_S: Final = 30.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS collections (
  name TEXT PRIMARY KEY, model TEXT NOT NULL, dimensions INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS chunks (
  collection TEXT NOT NULL, id TEXT NOT NULL, source TEXT NOT NULL,
  chunk BLOB NOT NULL,   -- msgpack of Chunk
  vector BLOB NOT NULL,  -- 32-bit floats, little-endian, of length 1
  PRIMARY KEY (collection, id)
);
CREATE INDEX IF NOT EXISTS chunks_by_source ON chunks (collection, source);
"""

_decode = msgspec.msgpack.Decoder(Chunk).decode


class Hit(msgspec.Struct, frozen=True):
    """A chunk that was found."""

    chunk: Chunk
    score: float
    """Cosine, 1 is the same direction."""


class VectorIndex:
    """The collections in one file. From any thread; each call is one transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        try:
            db = sqlite3.connect(self._path, timeout=BUSY_S)
        except sqlite3.Error as error:
            raise HandlerError("index", f"{self._path}: {error}") from error
        try:
            with db:
                db.execute("PRAGMA journal_mode = WAL")
                db.executescript(_SCHEMA)
                yield db
        except sqlite3.OperationalError as error:
            raise HandlerError("index", f"{self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise HandlerError("index", f"{self._path}: {error}", retryable=False) from error
        finally:
            db.close()

    def add(
        self,
        collection: str,
        chunks: Sequence[Chunk],
        vectors: Sequence[Sequence[float]],
        *,
        model: str,
        replace: bool = False,
    ) -> int:
        """Store chunks with their vectors; return how many the collection has then.

        *replace*: what it has of the same sources and is not among *chunks* goes. Raises
        `HandlerError` for vectors of another model or length.
        """
        if len(chunks) != len(vectors):
            text = f"{len(chunks)} chunks and {len(vectors)} vectors"
            raise HandlerError("invalid-input", text, retryable=False)
        with self._open() as db:
            if chunks:
                _check(db, collection, model, len(vectors[0]))
            if replace:
                for source in {chunk.source for chunk in chunks}:
                    db.execute(
                        "DELETE FROM chunks WHERE collection = ? AND source = ?",
                        (collection, source),
                    )
            db.executemany(
                "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?)",
                [
                    (collection, c.id, c.source, msgspec.msgpack.encode(c), _packed(vector))
                    for c, vector in zip(chunks, vectors, strict=True)
                ],
            )
            (count,) = db.execute(
                "SELECT count(*) FROM chunks WHERE collection = ?", (collection,)
            ).fetchone()
            return int(count)

    def search(
        self,
        collection: str,
        vector: Sequence[float],
        *,
        model: str,
        limit: int,
        sources: Sequence[str] = (),
        at_least: float = -1.0,
    ) -> list[Hit]:
        """Return the nearest chunks, nearest first; of equal ones by id. Raises `HandlerError`."""
        import numpy as np

        with self._open() as db:
            if not _known(db, collection):
                return []
            _check(db, collection, model, len(vector))
            marks = ",".join("?" * len(sources))
            where = f" AND source IN ({marks})" if sources else ""
            rows = db.execute(
                "SELECT chunk, vector FROM chunks WHERE collection = ?" + where + " ORDER BY id",
                (collection, *sources),
            ).fetchall()
        if not rows:
            return []
        matrix = np.frombuffer(b"".join(row[1] for row in rows), dtype="<f4")
        scores = matrix.reshape(len(rows), -1) @ _unit(vector)
        order = np.argsort(-scores, kind="stable")[:limit]
        hits = [Hit(_decode(rows[int(at)][0]), round(float(scores[int(at)]), 6)) for at in order]
        return [hit for hit in hits if hit.score >= at_least]


def _known(db: sqlite3.Connection, collection: str) -> tuple[str, int] | None:
    row: Any = db.execute(
        "SELECT model, dimensions FROM collections WHERE name = ?", (collection,)
    ).fetchone()
    return None if row is None else (row[0], row[1])


def _check(db: sqlite3.Connection, collection: str, model: str, dimensions: int) -> None:
    db.execute(
        "INSERT OR IGNORE INTO collections VALUES (?, ?, ?)", (collection, model, dimensions)
    )
    if (found := _known(db, collection)) != (model, dimensions):
        assert found is not None
        text = (
            f"collection {collection} has vectors of {found[0]} ({found[1]} numbers), "
            f"not of {model} ({dimensions})"
        )
        raise HandlerError("another-model", text, retryable=False)


def _unit(vector: Sequence[float]) -> NDArray[np.float32]:
    import numpy as np

    found: NDArray[np.float32] = np.asarray(vector, dtype=np.float32)
    length = np.float32(np.linalg.norm(found))
    return np.divide(found, length, dtype=np.float32) if length else found


def _packed(vector: Sequence[float]) -> bytes:
    return _unit(vector).astype("<f4").tobytes()
