"""The contenders of `benchmarks.compare`."""

from . import by_asyncpg, by_django, by_node, by_pgbench, by_sqlalchemy, by_sqlmodel, by_tortoise, ours, raw_psycopg
from .base import Contender

REFERENCE = raw_psycopg.Dicts
#: The reference of workloads with many concurrent tasks.
POOLED_REFERENCE = raw_psycopg.PooledDicts

#: The contenders that quick runs skip.
ONLY_IN_FULL: frozenset[type[Contender]] = frozenset(
    {
        raw_psycopg.Tuples,
        raw_psycopg.Models,
        by_asyncpg.Raw,
        by_sqlalchemy.Core,
        by_sqlalchemy.AddAll,
        by_sqlalchemy.AllAtOnce,
        by_sqlalchemy.AsyncOrm,
        by_sqlmodel.SqlModel,
        by_django.Django,
        by_tortoise.Tortoise,
        by_node.Drizzle,
        by_node.Prisma,
    }
)
EVERYBODY: tuple[type[Contender], ...] = (
    ours.OursSync,
    ours.Ours,
    ours.OursUvloop,
    ours.OursTransaction,
    raw_psycopg.Tuples,
    raw_psycopg.Dicts,
    raw_psycopg.Models,
    raw_psycopg.PipelinedDicts,
    raw_psycopg.PooledDicts,
    raw_psycopg.ServerAlone,
    by_asyncpg.OneConnection,
    by_asyncpg.OneConnectionUvloop,
    by_asyncpg.Raw,
    by_asyncpg.Pooled,
    by_asyncpg.PooledUvloop,
    by_sqlalchemy.Core,
    by_sqlalchemy.Orm,
    by_sqlalchemy.AddAll,
    by_sqlalchemy.AllAtOnce,
    by_sqlalchemy.AsyncOrm,
    by_sqlmodel.SqlModel,
    by_django.Django,
    by_tortoise.Tortoise,
    by_node.Drizzle,
    by_node.Prisma,
    by_pgbench.Pgbench,
)
