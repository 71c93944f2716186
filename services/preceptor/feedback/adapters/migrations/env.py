"""Alembic's entry. `migrate` hands it an open connection; its transaction holds the whole upgrade."""

from alembic import context

from preceptor.feedback.adapters.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
