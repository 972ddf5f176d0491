from support.broker import broker
from support.postgres import postgres, shared_postgres

__all__ = ["broker", "postgres", "shared_postgres"]
