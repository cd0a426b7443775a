// BullMQ on Node: two processes with a concurrency of 100 each; the same protocol as peers/measuring.py.
//
// Run as a worker process with the one argument "work"; everything else is the driver.

import { spawn } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

// The packages are where the driver is run (below .bench/), not beside this file.
const require = createRequire(`${process.cwd()}/package.json`);
const { FlowProducer, Queue, Worker } = require("bullmq");
const IORedis = require("ioredis");

const QUEUE = "bench";
const STARTS = "bench:starts";
const POLL_MS = 5;
const EMPTY_LOOKS = 10;
const STALLED_SECONDS = 90;
const WARM_UP_TASKS = 20;
const LATENCY_SAMPLES = 500;
const IDLE_MS = 20;
const JOB_OPTIONS = { removeOnComplete: true, removeOnFail: true };
const BULK = 1000;

const seconds = () => Number(process.hrtime.bigint()) / 1e9; // CLOCK_MONOTONIC
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const connect = (url) => new IORedis(url, { maxRetriesPerRequest: null });

function work(url, concurrency) {
  const connection = connect(url);
  const own = connect(url);
  const ran = openSync(process.env.BENCH_RAN, "a");
  const run = async (job) => {
    if (job.name === "stamp") await own.rpush(STARTS, `${seconds()} ${process.pid}`);
    else writeSync(ran, "."); // a trace, so that a task that was lost or ran twice is noticed
  };
  const worker = new Worker(QUEUE, run, { connection, concurrency });
  worker.on("error", (error) => console.error(error));
  process.on("SIGTERM", () => process.exit(0));
}

function workerCpuSeconds(workers) {
  const fields = (pid) => readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").pop().split(" ");
  const ticks = workers.map(({ pid }) => fields(pid).slice(11, 15).reduce((sum, field) => sum + Number(field), 0));
  return ticks.reduce((sum, each) => sum + each, 0) / 100;
}

function number(info, name) {
  return Number(info.match(new RegExp(`^${name}:([\\d.]+)`, "m"))[1]);
}

async function counters(client, workers) {
  const info = (await client.info("cpu")) + (await client.info("stats"));
  return {
    cpu: number(info, "used_cpu_user") + number(info, "used_cpu_sys"),
    commands: number(info, "total_commands_processed"),
    workers: workerCpuSeconds(workers),
  };
}

async function remaining(client) {
  const replies = await client.multi().llen(`bull:${QUEUE}:wait`).llen(`bull:${QUEUE}:active`).exec();
  return replies.reduce((sum, [, length]) => sum + length, 0);
}

async function watch(client, until) {
  let [looks, inARow, firstSeenAt, last, movedAt] = [0, 0, 0, -1, seconds()];
  for (;;) {
    const left = await remaining(client);
    const now = seconds();
    looks += 1;
    if (until(left)) {
      firstSeenAt = inARow ? firstSeenAt : now;
      inARow += 1;
      if (left > 0 || inARow >= EMPTY_LOOKS) return { at: firstSeenAt, left, looks };
    } else {
      inARow = 0;
    }
    if (left !== last) [last, movedAt] = [left, now];
    if (now - movedAt > STALLED_SECONDS) throw new Error(`${left} tasks are left, and none was done for long`);
    await sleep(POLL_MS);
  }
}

function checkRuns(tasks) {
  const ran = statSync(process.env.BENCH_RAN).size;
  if (ran !== tasks) throw new Error(`${ran} tasks ran, though ${tasks} were added`);
}

function startWorkers(url, count, concurrency) {
  const program = fileURLToPath(import.meta.url);
  const start = () => spawn(process.execPath, [program, "work", url, concurrency], { stdio: ["ignore", 2, 2] });
  const workers = Array.from({ length: count }, start);
  // Whatever ends the driver ends them too; they hold nothing that must be put in order.
  process.on("exit", () => workers.forEach((worker) => worker.kill("SIGKILL")));
  return workers;
}

async function addBulk(queue, count) {
  for (let start = 0; start < count; start += BULK) {
    const size = Math.min(BULK, count - start);
    await queue.addBulk(Array.from({ length: size }, () => ({ name: "noop", data: {}, opts: JOB_OPTIONS })));
  }
}

async function addEach(queue, count) {
  for (let each = 0; each < count; each += 1) await queue.add("noop", {}, JOB_OPTIONS);
}

async function nextStart(client, timeoutSeconds) {
  const found = await client.blpop(STARTS, timeoutSeconds);
  if (found === null) throw new Error(`no task started within ${timeoutSeconds} s`);
  return found[1].split(" ").map(Number);
}

async function warmUp(queue, client, processes) {
  const seen = new Set();
  const deadline = seconds() + 20;
  while (seen.size < processes && seconds() < deadline) {
    for (let each = 0; each < 4 * processes; each += 1) await queue.add("stamp", {}, JOB_OPTIONS);
    for (let each = 0; each < 4 * processes; each += 1) seen.add((await nextStart(client, 30))[1]);
    await sleep(50);
  }
  console.error(`${seen.size} worker processes answer`);
  await sleep(500);
}

async function usedMemory(client) {
  return number(await client.info("memory"), "used_memory");
}

async function drain({ url, queue, client, tasks, processes, concurrency }) {
  await queue.waitUntilReady();
  const before = await usedMemory(client);
  await addBulk(queue, tasks);
  const grown = (await usedMemory(client)) - before;
  const idle = await counters(client, []);
  for (let look = 0; look < 200; look += 1) await remaining(client);
  const looked = await counters(client, []);
  const workers = startWorkers(url, processes, concurrency);
  const { left } = await watch(client, (waiting) => waiting < tasks);
  const begun = await counters(client, workers);
  const startedAt = seconds();
  const { at, looks } = await watch(client, (waiting) => waiting === 0);
  const ended = await counters(client, workers);
  checkRuns(tasks);
  const perTask = (name) => (ended[name] - begun[name] - (looks * (looked[name] - idle[name])) / 200) / left;
  return {
    seconds: at - startedAt,
    per_second: left / (at - startedAt),
    redis_cpu_us: perTask("cpu") * 1e6,
    redis_commands: perTask("commands"),
    worker_cpu_us: ((ended.workers - begun.workers) / left) * 1e6,
    bytes_per_task: grown / tasks,
  };
}

async function adding({ queue, client, tasks }, add) {
  await add(queue, 100);
  const before = await counters(client, []);
  const own = process.cpuUsage();
  const startedAt = seconds();
  await add(queue, tasks);
  const elapsed = seconds() - startedAt;
  const { user, system } = process.cpuUsage(own);
  const after = await counters(client, []);
  if ((await remaining(client)) !== tasks + 100) throw new Error("not all tasks that were added wait");
  return {
    seconds: elapsed,
    per_second: tasks / elapsed,
    redis_cpu_us: ((after.cpu - before.cpu) / tasks) * 1e6,
    redis_commands: (after.commands - before.commands) / tasks,
    client_cpu_us: (user + system) / tasks,
  };
}

async function fanin({ url, queue, client, tasks, processes, concurrency }) {
  startWorkers(url, processes, concurrency);
  await warmUp(queue, client, processes);
  const flows = new FlowProducer({ connection: connect(url) });
  const startedAt = seconds();
  await flows.add({
    name: "stamp",
    queueName: QUEUE,
    opts: JOB_OPTIONS,
    children: Array.from({ length: tasks }, () => ({ name: "noop", queueName: QUEUE, data: {}, opts: JOB_OPTIONS })),
  });
  console.error(`added after ${seconds() - startedAt} s`);
  const elapsed = (await nextStart(client, 360))[0] - startedAt;
  checkRuns(tasks);
  return { seconds: elapsed, per_second: tasks / elapsed };
}

function percentile(sorted, percent) {
  const place = (sorted.length - 1) * (percent / 100);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

async function latency({ url, queue, client, tasks, concurrency }) {
  startWorkers(url, 1, concurrency);
  await warmUp(queue, client, 1);
  const samples = [];
  for (let each = 0; each < WARM_UP_TASKS + Math.min(tasks, LATENCY_SAMPLES); each += 1) {
    await sleep(IDLE_MS);
    const addedAt = seconds();
    await queue.add("stamp", {}, JOB_OPTIONS);
    samples.push(((await nextStart(client, 30))[0] - addedAt) * 1000);
  }
  const sorted = samples.slice(WARM_UP_TASKS).sort((a, b) => a - b);
  return { p50_ms: percentile(sorted, 50), p99_ms: percentile(sorted, 99) };
}

const MEASURES = {
  drain,
  enqueue: (given) => adding(given, addEach),
  bulk: (given) => adding(given, addBulk),
  fanin,
  latency,
};

async function main() {
  const text = { type: "string" };
  const { values, positionals } = parseArgs({
    options: { redis: text, tasks: { ...text, default: "10000" }, processes: { ...text, default: "2" }, variant: { ...text, default: "100" } },
    allowPositionals: true,
  });
  const [measure] = positionals;
  const folder = mkdtempSync(`${tmpdir()}/bench-ran-`);
  process.env.BENCH_RAN = `${folder}/ran`;
  closeSync(openSync(process.env.BENCH_RAN, "w"));
  process.on("exit", () => rmSync(folder, { recursive: true }));
  if (!MEASURES[measure] || !values.redis) {
    console.error(`usage: bullmq_peer.mjs ${Object.keys(MEASURES).join("|")} --redis URL [--tasks N] [--processes N] [--variant CONCURRENCY]`);
    process.exit(2);
  }
  const queue = new Queue(QUEUE, { connection: connect(values.redis) });
  const client = connect(values.redis);
  const tasks = Number(values.tasks);
  const given = { url: values.redis, queue, client, tasks, processes: Number(values.processes), concurrency: values.variant };
  const figures = await MEASURES[measure](given);
  const result = {
    peer: "bullmq",
    measure,
    tasks,
    ...Object.fromEntries(Object.entries(figures).map(([name, value]) => [name, Number(value.toFixed(4))])),
    at_least_once: true,
    settings: {
      semantics: "at least once (a lock that its worker renews; a stalled job runs again)",
      workers: `${given.processes} Node processes, each one Worker with concurrency ${given.concurrency}`,
      jobs: "removeOnComplete, removeOnFail: a finished job is deleted",
      bulk: `Queue.addBulk, ${BULK} a call`,
      "fan-in": "FlowProducer.add: the callback is the parent of all members",
    },
    versions: {
      node: process.versions.node,
      bullmq: require("bullmq/package.json").version,
      ioredis: require("ioredis/package.json").version,
    },
  };
  console.log(JSON.stringify(result));
  process.exit(0);
}

process.on("SIGTERM", () => process.exit(143));
if (process.argv[2] === "work") {
  work(process.argv[3], Number(process.argv[4]));
} else {
  main().catch((error) => {
    console.error(error);
    process.exit(1);
  });
}
