// BullMQ on Node, with its defaults. The assignment and the reports are those of harness.py; the
// clock, the count and the loops are the same, in JavaScript.
"use strict";

const { Queue, Worker } = require("bullmq");

const asked = {
  first: 0, warm: 0, jobs: 0, limit: 60, concurrency: 1, nap: 0, how: "preload", tasks: 32,
  ...JSON.parse(process.argv[2]),
};
const last = asked.first + asked.warm + asked.jobs;
const address = new URL(asked.url);
const connection = { host: address.hostname, port: Number(address.port) };
const CHUNK = 1000;
const SETTLE_MS = 300;

const report = (what) => process.stdout.write("REPORT " + JSON.stringify(what) + "\n");
const monotonicNs = () => Number(process.hrtime.bigint()); // exact for a hundred days of uptime
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

function mark() {
  const { user, system } = process.cpuUsage();
  return { at: monotonicNs() / 1e9, cpu: (user + system) / 1e6 };
}

function work() {
  const seen = new Uint8Array(last);
  const latencies = [];
  let executed = 0;
  let repeats = 0;
  let began = mark();
  let ended = began;

  function end(finished) {
    setTimeout(() => {
      report({
        finished, executed, repeats, seconds: ended.at - began.at, cpu: ended.cpu - began.cpu,
        latencies_ns: latencies,
      });
      process.exit(0);
    }, SETTLE_MS);
  }

  function ran({ number, at }) {
    if (at) latencies.push(monotonicNs() - at);
    if (seen[number]) {
      repeats += 1;
      return;
    }
    seen[number] = 1;
    executed += 1;
    if (executed === asked.warm) {
      report({ warm: executed });
      began = mark();
    } else if (executed === last) {
      ended = mark();
      end(true);
    }
  }

  setTimeout(() => end(false), asked.limit * 1000);
  const { concurrency } = asked;
  return new Worker(
    "jobs",
    async (job) => {
      if (asked.nap) await sleep(asked.nap);
      ran(job.data);
    },
    { connection, concurrency },
  );
}

async function emit() {
  const queue = new Queue("jobs", { connection });

  const one = (number, at) => queue.add("job", { number, at });

  async function each(numbers) {
    for (const number of numbers) await one(number, 0);
  }

  async function many(numbers) {
    for (let start = 0; start < numbers.length; start += CHUNK) {
      const part = numbers.slice(start, start + CHUNK);
      await queue.addBulk(part.map((number) => ({ name: "job", data: { number, at: 0 } })));
    }
  }

  async function all(numbers) {
    switch (asked.how) {
      case "bulk":
      case "preload":
        return many(numbers);
      case "tasks": {
        const shared = numbers.values();
        return Promise.all(Array.from({ length: asked.tasks }, () => each(shared)));
      }
      case "one":
        return each(numbers);
      case "idle":
        for (const number of numbers) {
          await sleep(0.005 + 0.02 * Math.random());
          await one(number, monotonicNs());
        }
        return undefined;
      default:
        throw new Error(`how=${asked.how} is not possible here`);
    }
  }

  const range = (from, to) => Array.from({ length: to - from }, (_, index) => from + index);
  const middle = asked.first + asked.warm;
  await queue.waitUntilReady();
  await all(range(asked.first, middle));
  const began = mark();
  await all(range(middle, last));
  const ended = mark();
  report({ seconds: ended.at - began.at, cpu: ended.cpu - began.cpu });
  await queue.close();
}

if (asked.role === "work") work();
else emit();
