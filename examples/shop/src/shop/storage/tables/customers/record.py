"""The record of `customers`."""

from __future__ import annotations

from agent_storage import Input, Key, Record


class NewCustomer(Input):
    """Fields to create a customer."""

    email: Key
    name: str | None = None


class Customer(Record, NewCustomer):
    """A customer."""
