"""Alembic's way in: it runs the steps on the connection that ``migrate`` hands over."""

from alembic import context

from remit.storage.sqlite.metadata import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
