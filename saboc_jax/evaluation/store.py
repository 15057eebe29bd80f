"""Results on disk: one SQLite file, one row per repeat, nothing computed twice.

A result is identified by nine texts (`Request`), see `saboc_jax.evaluation.identity`. A finished
row never changes unless `replace` is set, so writing the same results twice, from one process or
several, leaves one row each. Means over repeats are not stored: they follow from the rows, and a
mean would hide a repeat that is not finite.

    with Store("results.sqlite") as store:
        for request in store.missing(requests):
            store.put([Result(request, metrics={"trainability": 0.3}, seconds=1.2)])
        scores = store.table(scorer="ntk")["trainability"]

Every `put` is one transaction in a write-ahead log, synced before it returns. A process killed
at any moment loses only the rows it has not put. The log needs shared memory, so
all processes must run on one machine, with the file on a local disk, and each opens its own
`Store`; threads may share one.
"""

import contextlib
import json
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from saboc_jax.evaluation.records import (
    IDENTITY,
    SETTING,
    Request,
    Result,
    canonical_json,
    checked_request,
    decode,
    encode,
    metric_names,
    setting_of,
    write_csv,
    write_parquet,
)
from saboc_jax.files import whole_file

FORMAT = 2
"""Version of the file layout; files of another format are refused."""

_APPLICATION_ID = 0x5AB0C  # marks an SQLite file as ours
# Metrics and diagnostics are JSON as Python writes it, with NaN and Infinity.
_SCHEMA = (
    """CREATE TABLE settings (
        id INTEGER PRIMARY KEY, space TEXT NOT NULL, scorer TEXT NOT NULL, options TEXT NOT NULL,
        dataset TEXT NOT NULL, computing TEXT NOT NULL, versions TEXT NOT NULL,
        UNIQUE (space, scorer, options, dataset, computing, versions))""",
    """CREATE TABLE results (
        setting INTEGER NOT NULL REFERENCES settings, architecture TEXT NOT NULL,
        data TEXT NOT NULL, seed TEXT NOT NULL, metrics TEXT NOT NULL, diagnostics TEXT NOT NULL,
        finite INTEGER NOT NULL, seconds REAL NOT NULL, created TEXT NOT NULL,
        called TEXT NOT NULL, platform TEXT NOT NULL,
        PRIMARY KEY (setting, architecture, data, seed)) WITHOUT ROWID""",
    """CREATE VIEW rows AS SELECT space, architecture, scorer, options, dataset, data, seed,
        computing, versions, metrics, diagnostics, finite, seconds, created, called, platform
        FROM results JOIN settings ON settings.id = results.setting""",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)
_OUTCOME = "metrics, diagnostics, seconds, created, called, platform"
_T = TypeVar("_T")


class Store:
    """An open results file; use as a context manager.

    Args:
        path: the file; it and its directories are created if missing.
        timeout: seconds to wait for other processes before `TimeoutError`.

    Raises:
        ValueError: if the file is damaged, or belongs to another program or format.
    """

    def __init__(self, path: str | os.PathLike[str], timeout: float = 60.0) -> None:
        self.path = Path(path)
        self._timeout = timeout
        self._lock = threading.RLock()
        self._pid = os.getpid()
        if str(path) in ("", ".", ":memory:"):
            raise ValueError(f"store={str(path)!r} keeps nothing; allowed: the path of a file")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._patiently(self._recognise)
        self._connection = sqlite3.connect(
            self.path, timeout=timeout, isolation_level=None, check_same_thread=False
        )
        try:
            self._patiently(self._prepare)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        count = "SELECT count(*) FROM results"
        return self._patiently(lambda: self._connection.execute(count).fetchone()[0])

    def close(self) -> None:
        """Closes the file; closing twice does nothing."""
        with self._lock:
            self._connection.close()

    def missing(self, requests: Iterable[Request]) -> list[Request]:
        """Returns the requests without a result, in order and without repetition."""
        unique = list(dict.fromkeys(requests))
        found = self.get(unique)
        return [r for r, result in zip(unique, found, strict=True) if result is None]

    def get(self, requests: Iterable[Request]) -> list[Result | None]:
        """Returns the result of every request, or None if there is no result yet."""
        wanted = [checked_request(each) for each in requests]
        return self._patiently(lambda: self._find(wanted))

    def put(self, results: Iterable[Result], replace: bool = False) -> int:
        """Stores results, all or none; they are on disk when this returns.

        Args:
            results: the results to store.
            replace: overwrite rows that exist; by default the first result stays.

        Returns:
            How many rows were written.

        Raises:
            ValueError: names the field of a result that cannot be stored; nothing is stored.
        """
        rows = [encode(result) for result in results]
        return self._patiently(lambda: self._insert(rows, replace))

    def select(self, **filters: Any) -> list[Result]:
        """Returns the results that match the filters, sorted by the fields of `Request`.

        Args:
            **filters: for each field, one allowed text or a sequence of them. `options` and
                `versions` also take a mapping, `seed` also takes integers.

        Raises:
            ValueError: names an unknown field.
        """
        where, values = _condition(filters)
        query = (
            f"SELECT {', '.join(IDENTITY)}, {_OUTCOME} FROM rows "
            f"{where} ORDER BY {', '.join(IDENTITY)}"
        )
        found = self._patiently(lambda: self._connection.execute(query, values).fetchall())
        size = len(IDENTITY)
        return [decode(self._identity(row[:size]), row[size:], self.path) for row in found]

    def table(self, **filters: Any) -> dict[str, np.ndarray]:
        """Returns the results of `select` as columns [n]: fields, record, then every metric.

        The record is `finite`, `seconds`, `created`, `called` and `platform`. A metric that a row
        lacks is NaN; `finite` says whether all metrics of the row are finite. Use `select` for
        diagnostics.
        """
        results = self.select(**filters)
        columns = {
            name: np.array([getattr(each.request, name) for each in results], dtype=np.str_)
            for name in IDENTITY
        }
        columns["finite"] = np.array([each.finite for each in results], dtype=bool)
        columns["seconds"] = np.array([each.seconds for each in results], dtype=np.float64)
        for name in ("created", "called", "platform"):
            columns[name] = np.array([getattr(each, name) for each in results], dtype=np.str_)
        for name in metric_names(results):
            values = [each.metrics.get(name, math.nan) for each in results]
            columns[name] = np.array(values, dtype=np.float64)
        return columns

    def export(self, path: str | os.PathLike[str], **filters: Any) -> int:
        """Writes the results that `select` gives to a .csv or .parquet file.

        The file appears whole or not at all. A metric that a row lacks is empty; NaN and
        infinities are written as `nan`, `inf` and `-inf`.

        Returns:
            The number of rows.

        Raises:
            MissingExtraError: if Parquet is asked for and pyarrow is not installed.
            ValueError: if the suffix is neither .csv nor .parquet.
        """
        path = Path(path)
        writers = {".csv": write_csv, ".parquet": write_parquet}
        if path.suffix not in writers:
            raise ValueError(f"cannot export to {path}: the suffix must be .csv or .parquet")
        results = self.select(**filters)
        with whole_file(path) as unfinished:
            writers[path.suffix](unfinished, results)
        return len(results)

    def _prepare(self) -> None:
        """Checks that the file is intact and ours; creates the tables of a new file."""
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        damage = run("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise ValueError(f"{self.path} is no intact results file: {damage}")
        with self._transaction():
            if not run("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in _SCHEMA:
                    run(statement)
            else:
                self._check_format(self._connection)

    def _recognise(self) -> None:
        """Checks that a file that exists is ours, before anything could be written to it."""
        if not self.path.is_file() or not self.path.stat().st_size:
            return
        name = f"{self.path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(name, uri=True)) as connection:
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._check_format(connection)

    def _check_format(self, connection: sqlite3.Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if application != _APPLICATION_ID:
            raise ValueError(f"{self.path} is an SQLite file of another program")
        if version != FORMAT:
            raise ValueError(
                f"{self.path} has results format {version}, this version reads {FORMAT}: "
                "export it with the version that wrote it, or choose another file"
            )

    def _identity(self, fields: Sequence[Any]) -> Request:
        try:
            return checked_request(Request(*fields))
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error

    def _insert(
        self, rows: Sequence[tuple[tuple[str, ...], tuple[Any, ...]]], replace: bool
    ) -> int:
        with self._transaction():
            settings = {setting: self._setting(setting, create=True) for setting, _ in rows}
            insert = "INSERT OR REPLACE" if replace else "INSERT OR IGNORE"
            marks = ", ".join("?" * 11)  # columns of `results`
            cursor = self._connection.executemany(
                f"{insert} INTO results VALUES ({marks})",
                [(settings[setting], *values) for setting, values in rows],
            )
            return max(cursor.rowcount, 0)

    def _find(self, wanted: Sequence[Request]) -> list[Result | None]:
        settings = {s: self._setting(s, create=False) for s in map(setting_of, wanted)}
        query = (
            f"SELECT {_OUTCOME} FROM results "
            "WHERE setting = ? AND architecture = ? AND data = ? AND seed = ?"
        )
        found: list[Result | None] = []
        for each in wanted:
            identity = (settings[setting_of(each)], each.architecture, each.data, each.seed)
            row = self._connection.execute(query, identity).fetchone()
            found.append(None if row is None else decode(each, row, self.path))
        return found

    def _setting(self, setting: tuple[str, ...], create: bool) -> int | None:
        """Returns the row number of a setting, the shared part of identities; None: not stored."""
        if create:
            columns = ", ".join(SETTING)
            marks = ", ".join("?" * len(SETTING))
            insert = f"INSERT OR IGNORE INTO settings ({columns}) VALUES ({marks})"
            self._connection.execute(insert, setting)
        where = " AND ".join(f"{name} = ?" for name in SETTING)
        row = self._connection.execute(f"SELECT id FROM settings WHERE {where}", setting).fetchone()
        return None if row is None else row[0]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Runs a transaction, all or nothing; takes the write lock first to avoid deadlocks."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _patiently(self, action: Callable[[], _T]) -> _T:
        """Runs `action`, retries while other processes hold the file, and explains failures."""
        if os.getpid() != self._pid:
            raise RuntimeError(f"{self.path} was opened by another process: open a Store in each")
        deadline = time.monotonic() + self._timeout
        pause = 0.01
        while True:
            try:
                with self._lock:
                    return action()
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                    raise ValueError(f"{self.path} is no intact results file: {error}") from error
                if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    error.add_note(f"while using the results file {self.path}")
                    raise
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{self.path} stayed locked by another process for {self._timeout} s"
                    ) from error
            # SQLite waits by itself unless waiting could deadlock, e.g. at creation.
            time.sleep(pause)
            pause = min(2 * pause, 0.5)


def _condition(filters: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Returns a WHERE clause and its values."""
    unknown = set(filters) - set(IDENTITY)
    if unknown:
        allowed = ", ".join(IDENTITY)
        raise ValueError(f"cannot select by {sorted(unknown)}; allowed are {allowed}")
    tests, values = [], []
    for name, allowed in filters.items():
        if isinstance(allowed, Mapping):
            allowed = canonical_json(allowed)
        many = [allowed] if isinstance(allowed, (str, int)) else list(allowed)
        tests.append(f"{name} IN (SELECT value FROM json_each(?))")
        values.append(json.dumps([str(each) for each in many]))
    return ("WHERE " + " AND ".join(tests) if tests else ""), values
