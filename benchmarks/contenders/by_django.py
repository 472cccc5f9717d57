"""Django's ORM, sync, without a project: settings made here, one connection that stays open (`CONN_MAX_AGE=None`)."""

# pyright: reportMissingImports=false
# Who is compared with need not be installed.

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar
from uuid import UUID, uuid4

from psycopg.conninfo import conninfo_to_dict

from ..workloads import New
from .base import Contender


@cache
def model() -> Any:
    """The model. Django can be set up once in a process; the address is given to its connection."""
    import django
    from django.conf import settings

    database = {"ENGINE": "django.db.backends.postgresql", "NAME": "bench", "CONN_MAX_AGE": None}
    settings.configure(DATABASES={"default": database}, USE_TZ=True)
    django.setup()
    from django.db import models
    from django.db.models.functions import Now

    class BenchRow(models.Model):
        id = models.UUIDField(primary_key=True, default=uuid4)  # bulk_create gives back no id that the server made
        owner = models.UUIDField()
        body = models.TextField()
        data = models.JSONField()
        created_at = models.DateTimeField(db_default=Now())
        updated_at = models.DateTimeField(db_default=Now())

        class Meta:
            app_label = "benchmarks"
            db_table = "bench_rows"
            managed = False

    return BenchRow


class Django(Contender):
    """Autocommit, as Django does unless told otherwise. An update does not return its row, which is read after."""

    name: ClassVar[str] = "Django ORM"
    needs = ("django",)

    def open(self) -> None:
        self.row = model()
        self.rows = self.row.objects
        from django.db import connection

        self.connection: Any = connection
        part = conninfo_to_dict(self.conninfo)
        keys = {"NAME": "dbname", "HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
        connection.settings_dict.update({name: part.get(key) or "" for name, key in keys.items()})
        self.connection.ensure_connection()

    def close(self) -> None:
        self.connection.close()

    def insert(self, new: New) -> object:
        return self.rows.create(owner=new.owner, body=new.body, data=new.data)

    def get(self, id: UUID) -> object:
        return self.rows.get(pk=id)

    def newest(self, owner: UUID) -> object:
        return list(self.rows.filter(owner=owner).order_by("-id")[:100])

    def many(self, new: list[New]) -> object:
        return self.rows.bulk_create([self.row(owner=one.owner, body=one.body, data=one.data) for one in new])

    def turn(self, new: list[New]) -> object:
        from django.db import transaction

        with transaction.atomic():
            return [self.insert(one) for one in new]

    def stream(self) -> int:
        return sum(1 for _row in self.rows.order_by("id").iterator(chunk_size=1000))

    def update(self, id: UUID, body: str) -> object:
        self.rows.filter(pk=id).update(body=body)
        return self.rows.get(pk=id)
