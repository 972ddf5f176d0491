from support.broker import broker, shared_broker
from support.postgres import postgres, shared_postgres

__all__ = ["broker", "postgres", "shared_broker", "shared_postgres"]
