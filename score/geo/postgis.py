"""The objects of many scenes in a table of PostGIS."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import numpy as np
import psycopg
import shapely
from psycopg import Connection, sql

from score.errors import ConfigError, OutputError
from score.geo.catalogue import Scene
from score.geo.store import Entry, entry, on_the_globe, refuse_other

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

COLUMNS = {
    "scene": "text", "class": "text", "score": "double precision", "seen": "boolean", "area_m2": "double precision",
    "length_m": "double precision", "width_m": "double precision", "source": "text", "word": "text", "tile": "text",
    "model": "text", "date": "text", "geometry": "geometry(MultiPolygon, 4326)",
}  # fmt: skip
LEDGER = {
    "scene": "text PRIMARY KEY", "href": "text", "state": "text", "seconds": "double precision", "objects": "jsonb",
    "damaged": "integer", "reason": "text",
}  # fmt: skip
HINTS = {
    psycopg.errors.UndefinedObject: "PostGIS is not there; have the database's owner run CREATE EXTENSION postgis",
    psycopg.errors.UndefinedFile: "PostGIS is not installed on the server; install it, or choose another output",
    psycopg.errors.FeatureNotSupported: "PostGIS is not installed on the server; install it, or choose another output",
    psycopg.errors.UndefinedColumn: "it is no table of objects; choose another with ?table=NAME",
    psycopg.errors.InsufficientPrivilege: "have the database's owner grant it, or choose another output",
}


@dataclass(frozen=True)
class PostGIS:
    """A table of objects, and beside it ``TABLE_ledger`` of scenes. Outlines are multipolygons in WGS84.

    A scene's objects are replaced in one transaction with its line in the ledger.

    Attributes:
        url: ``postgresql://user@host/database``, with ``?table=NAME`` unless the table is to be ``objects``. The
            password is best left to ``PGPASSWORD`` or ``~/.pgpass``, where libpq looks for it; it is never shown.
        settings: what results depend on.
    """

    url: str = field(repr=False)
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        if urlsplit(self.url).netloc.count("@") > 1:
            raise ConfigError("output: an @ in a user or password is written %40 in an address; or set PGPASSWORD")
        if not re.fullmatch(r"[^\W\d]\w{0,50}(\.[^\W\d]\w{0,50})?", self.table):
            raise ConfigError(f"output: table={self.table}: use letters, digits and _, as in objects or public.objects")

    @property
    def table(self) -> str:
        """Its name."""
        return dict(parse_qsl(urlsplit(self.url).query)).get("table", "objects")

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        user, at, host = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=user.partition(":")[0] + at + host, query=f"table={self.table}"))

    def begin(self, overwrite: bool) -> dict[str, Entry]:
        """See :class:`score.geo.store.Store`."""
        settings = json.loads(json.dumps(self.settings))
        with self._connected() as connection:
            if not connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'postgis'").fetchone():
                with self._explained("PostGIS is not there; have the database's owner run CREATE EXTENSION postgis"):
                    connection.execute("CREATE EXTENSION postgis")
            if overwrite:
                connection.execute(self._sql("DROP TABLE IF EXISTS {table}, {ledger}"))
            if not connection.execute("SELECT to_regclass(%s)", [self._identifier("").as_string()]).fetchone()[0]:  # type: ignore[index]
                self._make(connection)
            rows = connection.execute(self._sql("SELECT settings, {fields} FROM {ledger} ORDER BY scene")).fetchall()
        for known in {json.dumps(row[0]): row[0] for row in rows}.values():
            refuse_other(str(self), known, settings)
        return {row[1]: Entry(*row[1:]) for row in rows}

    def _make(self, connection: Connection[Any]) -> None:
        """Create the tables; a place without rights to do so is told."""
        for name, columns in (("table", COLUMNS), ("ledger", {**LEDGER, "settings": "jsonb"})):
            body = sql.SQL(", ").join(
                sql.SQL("{} ").format(sql.Identifier(key)) + sql.SQL(kind) for key, kind in columns.items()
            )  # type: ignore[arg-type]
            connection.execute(self._sql(f"CREATE TABLE IF NOT EXISTS {{{name}}} ") + sql.SQL("({})").format(body))
        connection.execute(self._sql("CREATE INDEX ON {table} USING gist (geometry)"))
        connection.execute(self._sql("CREATE INDEX ON {table} (scene)"))

    def write(self, scene: Scene, found: GeoDataFrame, seconds: float) -> Entry:
        """See :class:`score.geo.store.Store`."""
        table, came = on_the_globe(scene, found), entry(scene, found, seconds)
        shapes = [shapely.multipolygons(shapely.get_parts(shape)) for shape in np.asarray(table.geometry.array)]
        table = table.drop(columns="geometry").astype(object)
        table["geometry"] = shapely.to_wkb(
            shapely.set_srid(np.array(shapes, dtype=object), 4326), True, include_srid=True
        )
        fields = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
        with self._connected() as connection, connection.cursor() as cursor:
            # Of two that write a scene, one waits: a worker that was taken for dead may still be at it.
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"{self.table} {scene.id}"])
            cursor.execute(self._sql("DELETE FROM {table} WHERE scene = %s"), [scene.id])
            with cursor.copy(self._sql("COPY {table} ") + sql.SQL("({}) FROM STDIN").format(fields)) as copy:
                for row in table[list(COLUMNS)].itertuples(index=False):
                    copy.write_row(row)
            self._put(connection, came)
        return came

    def note(self, entry: Entry) -> None:
        """See :class:`score.geo.store.Store`; what was written is noted already."""
        if entry.state != "done":
            with self._connected() as connection:
                self._put(connection, entry)

    def _put(self, connection: Connection[Any], entry: Entry) -> None:
        row = {**asdict(entry), "objects": json.dumps(entry.objects), "settings": json.dumps(self.settings)}
        sets = sql.SQL(", ").join(sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(key)) for key in row)
        places = sql.SQL(", ").join(map(sql.Placeholder, row))
        connection.execute(
            self._sql("INSERT INTO {ledger} ({fields}, settings) VALUES ")
            + sql.SQL("({}) ON CONFLICT (scene) DO UPDATE SET {}").format(places, sets),
            row,
        )

    def _identifier(self, suffix: str) -> sql.Identifier:
        *schema, name = self.table.split(".")
        return sql.Identifier(*schema, name + suffix)

    def _sql(self, text: str) -> sql.Composed:
        return sql.SQL(text).format(  # type: ignore[arg-type]
            table=self._identifier(""), ledger=self._identifier("_ledger"),
            fields=sql.SQL(", ").join(map(sql.Identifier, LEDGER)),
        )  # fmt: skip

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection[Any]]:
        """A transaction."""
        parts = urlsplit(self.url)
        query = urlencode([pair for pair in parse_qsl(parts.query) if pair[0] != "table"])
        address = urlunsplit(parts._replace(query=query))
        with self._explained(), psycopg.connect(address, connect_timeout=15) as connection:
            yield connection

    @contextlib.contextmanager
    def _explained(self, hint: str = "") -> Iterator[None]:
        """Errors of the database in one line, without the password."""
        try:
            yield
        except psycopg.Error as error:
            said = " ".join((error.diag.message_primary or str(error)).split())
            query = dict(parse_qsl(urlsplit(self.url).query))
            for secret in filter(None, (urlsplit(self.url).password, query.get("password"))):
                said = said.replace(secret, "***").replace(unquote(secret), "***")
            hint = hint or next((text for kind, text in HINTS.items() if isinstance(error, kind)), "")
            hint = hint or "check the address, PGPASSWORD and the rights, or choose another output"
            raise OutputError(f"output {self}: {said}; {hint}") from None
