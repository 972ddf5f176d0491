// A worker of Headrace: docs/protocol.md, step by step. It imports nothing of Headrace.
//
//     const worker = new Worker("nats://127.0.0.1:4222", { id: "js-1", slots: 4 });
//     worker.handle("js/greet", async (inputs, context) => ({ greeting: `Hello, ${inputs.name}` }));
//     worker.start();

import { createHash, randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { decode, encode } from "./msgpack.mjs";
import { Nats } from "./nats.mjs";

const VERSION = 1;
const HEARTBEAT_MS = 1_000;
const REQUEST_MS = 5_000;
const RETRY_MS = 250;
const RECENT_MAX = 10_000;
const PULL = { expires: 30e9, idle_heartbeat: 5e9 };
const PULL_SILENT_MS = 12_500;

export const COMPLETED = 0;
export const FAILED = 1;
export const CANCELLED = 2;
export const RETURNED = 3;

/** What a handler throws to say whether another attempt may help. */
export class StepError extends Error {
  constructor(type, message, retryable = true) {
    super(message);
    this.type = type;
    this.retryable = retryable;
  }
}

export class Worker {
  constructor(url, { id, namespace = "default", capabilities = [], slots = 4 }) {
    Object.assign(this, { id, namespace, capabilities, slots });
    this.incarnation = randomBytes(6).toString("hex"); // one life; never used again
    this.startedMs = Date.now();
    this.handlers = new Map();
    this.lanes = new Map(); // lane -> Pull
    this.held = new Map(); // "run step" -> attempt in hands, queued or running
    this.queue = [];
    this.running = 0;
    this.recent = new Set(); // dispatches that were taken, against doubles
    this.epochs = new Map(); // shard -> [epoch, round]
    this.outbox = new Map(); // "namespace shard" -> results that nobody has confirmed yet
    this.sending = new Set();
    this.draining = false;
    this.nats = new Nats(url);
  }

  /** *inputs* describes what the handler takes, as JSON Schema. */
  handle(name, run, { version = "1", inputs = { type: "object" } } = {}) {
    this.handlers.set(name, { run, version, inputs });
  }

  // 1. Register: there is no call for it. The first heartbeat does it; orders must be heard before.
  start() {
    const orders = `headrace.worker.${this.namespace}.${this.labels()}.${this.id}.${this.incarnation}`;
    this.nats.subscribe(orders, (message) => this.order(decode(message.data)));
    this.nats.onUp = () => {
      this.beat();
      for (const pull of this.lanes.values()) pull.restart();
    };
    this.beating = setInterval(() => this.beat(), HEARTBEAT_MS);
    if (this.nats.connected) this.nats.onUp();
  }

  // What it offers, as a token of its subjects: a login is for these labels only.
  labels() {
    const sorted = [...new Set(this.capabilities.map((label) => label.toLowerCase()))].sort();
    return createHash("sha256").update(sorted.join("\n")).digest("hex").slice(0, 20);
  }

  beat(stopped = false) {
    const now = Date.now();
    // Stood still for as long as a lease: what has not begun may be somebody else's by now.
    if (now - (this.beatMs ?? now) >= 3 * HEARTBEAT_MS) this.handBack();
    this.beatMs = now;
    const held = new Map();
    const list = (shard, entry) => held.set(shard, [...(held.get(shard) ?? []), entry]);
    for (const work of this.held.values()) {
      const { run, step, attempt } = work.task;
      list(work.shard, [run, step, attempt, work.running, null]);
    }
    // A result that is not confirmed counts as held: its step must not run again.
    for (const { shard, results } of this.outbox.values()) {
      for (const [run, step, attempt] of results) list(shard, [run, step, attempt, true, null]);
    }
    const free = this.draining ? 0 : Math.max(0, this.slots - this.running - this.queue.length);
    const handlers = new Map();
    for (const [name, { version, inputs }] of this.handlers) handlers.set(name, { version, inputs });
    const epochs = new Map([...this.epochs].map(([shard, [epoch]]) => [shard, epoch]));
    const rounds = new Map();
    for (const [shard, [, round]] of this.epochs) if (round) rounds.set(shard, round);
    const beat = {
      version: VERSION,
      id: this.id,
      incarnation: this.incarnation,
      namespace: this.namespace,
      capabilities: this.capabilities,
      handlers,
      slots: this.slots,
      free,
      release: "polyglot",
      host: hostname(),
      pid: process.pid,
      started_ms: this.startedMs,
      sent_ms: now,
      draining: this.draining,
      stopped,
      lanes: [...this.lanes.keys()],
      held,
      epochs,
      rounds,
    };
    this.nats.publish(`headrace.hb.worker.${this.namespace}.${this.labels()}.${this.id}`, encode(beat));
  }

  // 2. Orders of coordinators: arrays that begin with their kind.
  order([kind, ...fields]) {
    if (kind === "lane") {
      const [lane, consumer, capabilities] = fields;
      if (this.draining || this.lanes.has(lane) || !this.serves(lane, capabilities)) return;
      this.lanes.set(lane, new Pull(this, consumer));
      this.beat();
    } else if (kind === "cancel") {
      const [run, step, attempt, reason = ""] = fields;
      const work = this.held.get(`${run} ${step}`);
      if (work && work.task.attempt === attempt) this.stop(work, "cancelled", reason);
    } else if (kind === "epoch") {
      const [shard, epoch, round = 0] = fields;
      this.isCurrent(shard, epoch, round);
      this.beat();
    } else if (kind === "drain") {
      this.drain(fields[0] || 30_000);
    }
  }

  serves(lane, capabilities) {
    if (lane.startsWith("@")) return lane === `@${this.id}-${this.incarnation}`;
    const names = [...this.handlers.keys()].map((name) => `uses:${name}`);
    const offered = new Set([...this.capabilities, ...names].map((label) => label.toLowerCase()));
    return capabilities.every((label) => offered.has(label.toLowerCase()));
  }

  /** Remember an owner's epoch and round; false: there was a newer one, drop the message. */
  isCurrent(shard, epoch, round) {
    const [knownEpoch, knownRound] = this.epochs.get(shard) ?? [-1, 0];
    if (epoch < knownEpoch || (epoch === knownEpoch && round < knownRound)) return false;
    this.epochs.set(shard, [epoch, round]);
    return true;
  }

  // 3. Tasks. The message was acknowledged already: from here on the owner watches our heartbeats.
  take(data) {
    const [version, shard, epoch, namespace, , tasks, round = 0] = decode(data);
    if (version !== VERSION) return console.error(`tasks of version ${version}`);
    if (!this.isCurrent(shard, epoch, round)) return;
    for (const fields of tasks) {
      const [run, step, path, attempt, token, uses, inputs, options] = fields;
      const task = { run, step, path, attempt, token, uses, inputs, options: options ?? new Map() };
      this.admit({ task, shard, namespace, running: false, abort: new AbortController() });
    }
    this.startQueued();
  }

  admit(work) {
    const { run, step, attempt, token } = work.task;
    const dispatch = `${run} ${step} ${attempt} ${token}`;
    if (this.recent.has(dispatch)) return; // the broker has repeated itself
    this.recent.add(dispatch);
    if (this.recent.size > RECENT_MAX) this.recent.delete(this.recent.values().next().value);
    const current = this.held.get(`${run} ${step}`);
    if (current && current.task.attempt >= attempt) {
      // A new owner has sent it again without knowing that we have it: take its token, go on.
      if (current.task.attempt === attempt) current.task.token = Math.max(current.task.token, token);
      return;
    }
    const kept = this.outbox.get(`${work.namespace} ${work.shard}`)?.results ?? [];
    const answer = kept.find((r) => r[0] === run && r[1] === step && r[2] === attempt);
    if (answer) return this.report(work, answer.with(3, token)); // it has run: answer the new token
    if (current) this.stop(current, "superseded", "a newer attempt was dispatched");
    this.held.set(`${run} ${step}`, work);
    this.queue.push(work);
  }

  startQueued() {
    while (this.queue.length && this.running < this.slots) {
      const work = this.queue.shift();
      if (this.holds(work)) this.run(work);
    }
    for (const pull of this.lanes.values()) pull.ask();
  }

  // 4. One attempt.
  async run(work) {
    const { task } = work;
    work.running = true;
    work.startedMs = Date.now();
    this.running += 1;
    const timeoutMs = task.options.get("timeout_ms") ?? 0;
    const timer = timeoutMs && setTimeout(() => this.stop(work, "timeout", `${timeoutMs} ms`), timeoutMs);
    let [status, output, error, version] = [COMPLETED, {}, null, ""];
    try {
      const handler = this.handlers.get(task.uses);
      if (!handler) throw new StepError("unknown-handler", `no handler ${task.uses} here`, false);
      version = handler.version;
      if (task.options.get("deferred")?.size) {
        throw new StepError("not-supported", "expressions are not evaluated here", false);
      }
      if (task.options.get("at_most_once") && !(await this.claim(work))) {
        work.stopped ??= ["superseded", ""]; // it must never run, and there is nothing to tell
      } else {
        const startByMs = task.options.get("start_by_ms") ?? 0;
        if (startByMs && Date.now() > startByMs) status = RETURNED;
        else output = (await handler.run(object(task.inputs), this.context(work))) ?? {};
      }
    } catch (raised) {
      status = FAILED;
      error = [raised.type ?? raised.name, String(raised.message), raised.retryable ?? true];
    }
    clearTimeout(timer);
    this.running -= 1;
    if (work.stopped) {
      const [kind, why] = work.stopped;
      [status, output, error] = [kind === "cancelled" ? CANCELLED : FAILED, {}, [kind, why, true]];
    }
    if (this.holds(work)) this.held.delete(`${task.run} ${task.step}`);
    if (work.stopped?.[0] !== "superseded") {
      const { run, step, attempt, token } = task;
      const extra = version ? { handler_version: version } : null;
      const times = [work.startedMs, Date.now()];
      this.report(work, [run, step, attempt, token, status, output, ...times, error, extra]);
    }
    this.startQueued();
  }

  context(work) {
    const { task, abort } = work;
    let lines = 0;
    const log = (line, stream = "stdout") => {
      // 5. Lines of output: published, nobody answers.
      const message = [VERSION, task.run, task.step, task.path, task.attempt, lines++];
      const subject = `headrace.logs.${work.shard}.${task.run.replaceAll("/", ".")}`;
      this.nats.publish(subject, encode([...message, [[Date.now(), stream, String(line)]]]));
    };
    const key = `${task.run}/${task.path}`;
    return { log, signal: abort.signal, attempt: task.attempt, idempotencyKey: key };
  }

  holds(work) {
    return this.held.get(`${work.task.run} ${work.task.step}`) === work;
  }

  stop(work, kind, why) {
    if (work.stopped) return;
    work.stopped = [kind, why];
    work.abort.abort(); // the handler sees it and ends; only then the result leaves
    if (work.running || !this.queue.includes(work)) return;
    this.queue.splice(this.queue.indexOf(work), 1);
    if (this.holds(work)) this.held.delete(`${work.task.run} ${work.task.step}`);
    if (kind === "cancelled") {
      const { run, step, attempt, token } = work.task;
      const now = Date.now();
      this.report(work, [run, step, attempt, token, CANCELLED, {}, now, now, [kind, why, true]]);
    }
  }

  /** May this at-most-once attempt start? The owner logs the answer before it gives it. */
  async claim({ task, shard, namespace }) {
    const { run, step, attempt, token } = task;
    const claim = ["claim", VERSION, this.id, this.incarnation, run, step, attempt, token];
    const [granted] = decode(await this.ask(namespace, shard, claim));
    return granted;
  }

  // 6. Results: kept, and sent again, until the owner says that they are in its log.
  report({ namespace, shard }, result) {
    const route = `${namespace} ${shard}`;
    if (!this.outbox.has(route)) this.outbox.set(route, { namespace, shard, results: [] });
    this.outbox.get(route).results.push(result);
    if (!this.sending.has(route)) this.send(route);
  }

  async send(route) {
    this.sending.add(route);
    const { namespace, shard, results } = this.outbox.get(route);
    while (results.length) {
      const batch = results.slice(0, 100);
      const message = ["results", VERSION, this.id, this.incarnation, batch];
      const [refused = [], retryAfterMs = 0] = decode(await this.ask(namespace, shard, message));
      if (retryAfterMs) {
        await pause(retryAfterMs);
        continue;
      }
      for (const index of refused) console.error(`refused: ${batch[index].slice(0, 4)}`);
      results.splice(0, batch.length);
    }
    this.outbox.delete(route);
    this.sending.delete(route);
  }

  /** Ask a shard's owner until it answers: owners change, brokers restart. */
  async ask(namespace, shard, message) {
    const subject = `headrace.result.${namespace}.${shard}.${this.id}`;
    for (;;) {
      try {
        return await this.nats.request(subject, encode(message), REQUEST_MS);
      } catch {
        await pause(RETRY_MS);
      }
    }
  }

  /** Return what has not begun to its owners. */
  handBack() {
    for (const work of this.queue.splice(0)) {
      const { run, step, attempt, token } = work.task;
      this.held.delete(`${run} ${step}`);
      this.recent.delete(`${run} ${step} ${attempt} ${token}`); // it may come again
      const now = Date.now();
      this.report(work, [run, step, attempt, token, RETURNED, {}, now, now]);
    }
  }

  // 7. Drain: take nothing more, finish what runs, say goodbye.
  async drain(graceMs) {
    if (this.draining) return;
    this.draining = true;
    for (const pull of this.lanes.values()) pull.close();
    this.handBack();
    this.beat();
    const end = Date.now() + graceMs;
    while ((this.held.size || this.outbox.size) && Date.now() < end) await pause(50);
    clearInterval(this.beating);
    this.beat(true);
    this.nats.close();
  }
}

/** Pulls from one lane's consumer (NATS ADR-13), one message at a time, while there is a free slot. */
class Pull {
  constructor(worker, consumer) {
    this.worker = worker;
    this.subject = `$JS.API.CONSUMER.MSG.NEXT.HEADRACE_TASKS.${consumer}`;
    this.restart();
    this.watch = setInterval(() => {
      if (this.asked && Date.now() - this.heardMs > PULL_SILENT_MS) this.restart();
    }, HEARTBEAT_MS);
  }

  restart() {
    this.unsubscribe?.();
    this.inbox = this.worker.nats.newInbox();
    this.unsubscribe = this.worker.nats.subscribe(this.inbox, (message) => this.receive(message));
    this.asked = false;
    this.ask();
  }

  ask() {
    const { nats, slots, running, queue, draining } = this.worker;
    if (this.asked || draining || running + queue.length >= slots) return;
    this.heardMs = Date.now();
    this.asked = nats.publish(this.subject, JSON.stringify({ batch: 1, ...PULL }), this.inbox);
  }

  receive(message) {
    this.heardMs = Date.now();
    if (message.status === 100) return; // the broker is alive, and has nothing
    this.asked = false;
    if (message.status === 404 || message.status === 408) return this.ask();
    if (message.status) return setTimeout(() => this.ask(), RETRY_MS);
    this.worker.nats.publish(message.reply, "+ACK"); // on receipt: JetStream does not judge loss
    this.worker.take(message.data);
    this.ask();
  }

  close() {
    clearInterval(this.watch);
    this.unsubscribe();
  }
}

function object(inputs) {
  const found = Object.fromEntries(inputs);
  for (const [name, value] of Object.entries(found)) {
    if (value instanceof Map && value.has("$blob")) {
      throw new StepError("not-supported", `${name} is too large to be in the message`, false);
    }
  }
  return found;
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
