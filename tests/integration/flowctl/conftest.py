from support.broker import bus, shared_broker

__all__ = ["bus", "shared_broker"]
