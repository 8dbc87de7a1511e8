"""Run by alembic, with the connection and the transaction of `maintd.store.schema`."""

from alembic import context

from maintd.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
