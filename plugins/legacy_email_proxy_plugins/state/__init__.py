"""The shared state ``postgresql``: what several proxies have to know together, in PostgreSQL."""

from .shared_state import PostgresState

__all__ = ("PostgresState",)
