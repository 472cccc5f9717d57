"""The storage of the shop: the tables of agent-storage and its own."""

from shop.storage.storage import Shop

__all__ = ["Shop"]
