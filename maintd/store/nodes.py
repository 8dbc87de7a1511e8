"""The nodes that share this store."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.engine import Connection

from maintd.model.status import NodeState
from maintd.store.database import Database, insert_into
from maintd.store.prepared import Prepared
from maintd.store.tables import nodes

_ALL = Prepared(select(nodes).order_by(nodes.c.name))


class Nodes:
    """Heartbeats of nodes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def heartbeat(self, node: NodeState) -> None:
        """Record that the node is alive."""
        columns = node.model_dump()

        def transaction(conn: Connection) -> None:
            statement = insert_into(conn, nodes).values(**columns)
            changed = {key: value for key, value in columns.items() if key != "name"}
            conn.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changed))

        self._database.write(transaction, synced=False)

    def remove(self, name: str, incarnation: str) -> None:
        """Remove a node that stops; one that was killed stays, with the time of its last heartbeat."""
        gone = delete(nodes).where(nodes.c.name == name, nodes.c.incarnation == incarnation)
        self._database.write(lambda conn: conn.execute(gone), synced=False)

    def all(self) -> list[NodeState]:
        """All nodes that sent a heartbeat and did not stop, by name; `seen_at` is the time of the last one."""
        return self._database.read(
            lambda conn: [NodeState.model_validate(row._asdict()) for row in _ALL.rows(conn, {})]
        )
