// A contender of benchmarks.compare, in a process of its own: `node serve.mjs drizzle`, PostgreSQL's variables set.
// Each line of stdin is a round, {method, arguments, tasks}; its line of stdout is {seconds, p99, cpu}.
import { createInterface } from 'node:readline'

const WARM_SECONDS = 1
const contender = await import(`./${process.argv[2]}.mjs`)

async function inTurn(method, calls) {
  for (const given of calls) await method(...given)
  return null
}

// The tasks take from one list: a row to be inserted, or the id of one to get.
async function together(calls, tasks) {
  const left = calls.values()
  const took = []
  const task = async () => {
    for (const [given] of left) {
      const begun = performance.now()
      await (typeof given === 'string' ? contender.get(given) : contender.insert(given))
      took.push(performance.now() - begun)
    }
  }
  await Promise.all(Array.from({ length: tasks }, task))
  took.sort((one, other) => one - other)
  return took[Math.max(0, Math.ceil(took.length * 0.99) - 1)] / 1000
}

async function round({ method, arguments: calls, tasks }) {
  globalThis.gc?.() // as Python's garbage is collected before each round
  const used = process.cpuUsage()
  const started = performance.now()
  const p99 = method === 'mixed' ? await together(calls, tasks) : await inTurn(contender[method], calls)
  const seconds = (performance.now() - started) / 1000
  const { user, system } = process.cpuUsage(used)
  return { seconds, p99, cpu: (user + system) / 1e6 }
}

let warm = 0
for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line)
  let took = await round(asked)
  // V8 compiles what has run often, so the first round, which does not count, is repeated.
  while ((warm += took.seconds) < WARM_SECONDS) took = await round(asked)
  console.log(JSON.stringify(took))
}
await contender.close()
