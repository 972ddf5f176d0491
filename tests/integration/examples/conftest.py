from support.cluster import shared_dev

__all__ = ["shared_dev"]
