// The NATS client protocol (https://docs.nats.io/reference/reference-protocols/nats-protocol) over
// plain TCP: subscribe, publish, request, and a connection that comes back.

import { randomBytes } from "node:crypto";
import { createConnection } from "node:net";

const RECONNECT_MS = 250;
const PING_MS = 5_000;
const CRLF = Buffer.from("\r\n");

export class Nats {
  /** *url*: nats://[user:password@]host:port */
  constructor(url) {
    this.url = new URL(url);
    this.connected = false;
    this.onUp = () => {};
    this.subscriptions = new Map(); // sid -> {subject, take}
    this.waiting = new Map(); // token -> {resolve, timer}
    this.sid = 0;
    this.closed = false;
    this.inbox = `_INBOX.${randomBytes(12).toString("hex")}`;
    this.subscribe(`${this.inbox}.*`, (message) => {
      const waiter = this.waiting.get(message.subject);
      if (waiter) waiter(message);
    });
    this.connect();
  }

  newInbox() {
    return `_INBOX.${randomBytes(12).toString("hex")}`;
  }

  /** Call *take* with each message {subject, reply, status, data}; returns what unsubscribes. */
  subscribe(subject, take) {
    const sid = String(++this.sid);
    this.subscriptions.set(sid, { subject, take });
    if (this.connected) this.write(`SUB ${subject} ${sid}\r\n`);
    return () => {
      this.subscriptions.delete(sid);
      if (this.connected) this.write(`UNSUB ${sid}\r\n`);
    };
  }

  /** False while the connection is down: nothing is kept. */
  publish(subject, data, reply = "") {
    if (!this.connected) return false;
    const bytes = Buffer.from(data);
    this.write(`PUB ${subject} ${reply ? reply + " " : ""}${bytes.length}\r\n`, bytes, CRLF);
    return true;
  }

  /** Return the answer's bytes. Rejects when there is none in time, or nobody listens. */
  request(subject, data, timeoutMs) {
    const reply = `${this.inbox}.${randomBytes(8).toString("hex")}`;
    return new Promise((resolve, reject) => {
      const end = (settle, value) => {
        clearTimeout(timer);
        this.waiting.delete(reply);
        settle(value);
      };
      const timer = setTimeout(() => end(reject, new Error("no answer")), timeoutMs);
      this.waiting.set(reply, (message) => {
        if (message.status) end(reject, new Error(`status ${message.status}`));
        else end(resolve, message.data);
      });
      if (!this.publish(subject, data, reply)) end(reject, new Error("not connected"));
    });
  }

  close() {
    this.closed = true;
    clearInterval(this.pinging);
    this.socket.end();
  }

  // -- inside ------------------------------------------------------------------------------------

  write(...parts) {
    this.socket.write(Buffer.concat(parts.map((part) => Buffer.from(part))));
  }

  connect() {
    const { hostname, port } = this.url;
    this.buffer = Buffer.alloc(0);
    this.silent = 0;
    const socket = (this.socket = createConnection({ host: hostname, port: Number(port || 4222) }));
    socket.setNoDelay(true);
    socket.on("data", (chunk) => {
      this.silent = 0;
      this.buffer = this.buffer.length ? Buffer.concat([this.buffer, chunk]) : chunk;
      this.read();
    });
    socket.on("error", () => {}); // "close" follows
    socket.on("close", () => {
      this.connected = false;
      clearInterval(this.pinging);
      if (!this.closed) setTimeout(() => this.connect(), RECONNECT_MS);
    });
    this.pinging = setInterval(() => {
      if (++this.silent > 2) socket.destroy();
      else if (this.connected) this.write("PING\r\n");
    }, PING_MS);
  }

  read() {
    for (;;) {
      const end = this.buffer.indexOf("\r\n");
      if (end < 0) return;
      const words = this.buffer.toString("utf-8", 0, end).split(" ");
      const verb = words[0].toUpperCase();
      if (verb === "MSG" || verb === "HMSG") {
        const size = Number(words.at(-1));
        if (this.buffer.length < end + 2 + size + 2) return;
        const body = this.buffer.subarray(end + 2, end + 2 + size);
        this.buffer = this.buffer.subarray(end + 2 + size + 2);
        this.deliver(verb, words, body);
        continue;
      }
      this.buffer = this.buffer.subarray(end + 2);
      if (verb === "INFO") this.greet();
      else if (verb === "PING") this.write("PONG\r\n");
      else if (verb === "-ERR") console.error(`nats: ${words.slice(1).join(" ")}`);
    }
  }

  greet() {
    if (this.connected) return; // the servers of the cluster have changed
    const { username, password } = this.url;
    const options = { verbose: false, pedantic: false, headers: true, no_responders: true };
    options.lang = "javascript";
    options.version = "1";
    if (username) Object.assign(options, { user: username, pass: decodeURIComponent(password) });
    this.write(`CONNECT ${JSON.stringify(options)}\r\n`);
    this.connected = true;
    for (const [sid, { subject }] of this.subscriptions) this.write(`SUB ${subject} ${sid}\r\n`);
    this.onUp();
  }

  deliver(verb, words, body) {
    const [subject, sid] = [words[1], words[2]];
    const sizes = verb === "HMSG" ? 2 : 1;
    const reply = words.length === 3 + sizes + 1 ? words[3] : "";
    let status = 0;
    let data = body;
    if (verb === "HMSG") {
      const header = Number(words.at(-2));
      // "NATS/1.0 503 No Responders": an answer of the broker itself.
      status = Number(/^NATS\/1\.0 (\d{3})/.exec(body.toString("utf-8", 0, header))?.[1] ?? 0);
      data = body.subarray(header);
    }
    this.subscriptions.get(sid)?.take({ subject, reply, status, data });
  }
}
