"""What Alembic runs: migrations on the connection that `userstudy.database.migrate` gives it."""

from __future__ import annotations

from alembic import context

from userstudy.database.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
