// Prisma over node-postgres; its query compiler runs in this process, as WebAssembly.
import { PrismaPg } from '@prisma/adapter-pg'

import { PrismaClient } from './generated/index.js'

const PAGE = 1000

const client = new PrismaClient({ adapter: new PrismaPg({ max: 10 }) })
const rows = client.row

export const insert = (data) => rows.create({ data })
export const get = (id) => rows.findUnique({ where: { id } })
export const newest = (owner) => rows.findMany({ where: { owner }, orderBy: { id: 'desc' }, take: 100 })
export const update = (id, body) => rows.update({ where: { id }, data: { body } })
export const many = (data) => rows.createManyAndReturn({ data })
export const turn = (given) => client.$transaction(given.map((data) => rows.create({ data })))

// Prisma has no cursors of the server's: a page begins behind the last row of the one before.
export async function stream(each = () => {}) {
  let count = 0
  let from = {}
  while (true) {
    const page = await rows.findMany({ orderBy: { id: 'asc' }, take: PAGE, ...from })
    page.forEach(each)
    count += page.length
    if (page.length < PAGE) return count
    from = { cursor: { id: page.at(-1).id }, skip: 1 }
  }
}

export const close = () => client.$disconnect()
