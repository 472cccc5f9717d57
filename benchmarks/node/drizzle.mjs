// Drizzle over postgres.js, which keeps the statements of prepared queries on its connections.
import { asc, desc, eq, getTableColumns, sql } from 'drizzle-orm'
import { jsonb, pgTable, text, timestamp, uuid } from 'drizzle-orm/pg-core'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'

const rows = pgTable('bench_rows', {
  id: uuid().primaryKey().default(sql`uuid_v7()`),
  owner: uuid().notNull(),
  body: text().notNull(),
  data: jsonb().notNull(),
  createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
  updatedAt: timestamp('updated_at', { withTimezone: true }).notNull().defaultNow(),
})
const PART = 1000
const PAGE = 1000

const given = { owner: sql.placeholder('owner'), body: sql.placeholder('body'), data: sql.placeholder('data') }
const client = postgres({ max: 10 })
const db = drizzle(client)

const inserting = (by) => by.insert(rows).values(given).returning().prepare('insert')
const inserted = inserting(db)
const got = db.select().from(rows).where(eq(rows.id, sql.placeholder('id'))).prepare('get')
const ofOwner = eq(rows.owner, sql.placeholder('owner'))
const newestOf = db.select().from(rows).where(ofOwner).orderBy(desc(rows.id)).limit(100).prepare('newest')
const changed = { body: sql`${sql.placeholder('body')}` }
const updated = db.update(rows).set(changed).where(eq(rows.id, sql.placeholder('id'))).returning().prepare('update')

export const insert = async (row) => (await inserted.execute(row))[0]
export const get = async (id) => (await got.execute({ id }))[0]
export const newest = (owner) => newestOf.execute({ owner })
export const update = async (id, body) => (await updated.execute({ id, body }))[0]

export const many = (given) =>
  db.transaction(async (tx) => {
    const found = []
    for (let from = 0; from < given.length; from += PART) {
      found.push(...(await tx.insert(rows).values(given.slice(from, from + PART)).returning()))
    }
    return found
  })

export const turn = (given) =>
  db.transaction(async (tx) => {
    const one = inserting(tx)
    const found = []
    for (const row of given) found.push((await one.execute(row))[0])
    return found
  })

// Drizzle has no cursors for PostgreSQL: the driver's, and Drizzle's own decoding of each column.
const columns = Object.entries(getTableColumns(rows))
const decoded = (row) => Object.fromEntries(columns.map(([name, one]) => [name, one.mapFromDriverValue(row[one.name])]))

export async function stream(each = () => {}) {
  let count = 0
  const { sql: text } = db.select().from(rows).orderBy(asc(rows.id)).toSQL()
  for await (const page of client.unsafe(text, [], { prepare: true }).cursor(PAGE)) {
    for (const row of page) each(decoded(row))
    count += page.length
  }
  return count
}

export const close = () => client.end()
