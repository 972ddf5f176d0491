// Two handlers in JavaScript:   node main.mjs nats://127.0.0.1:4222
//
// `--check ../../docs/protocol/vectors.json` reads and writes the golden bytes instead.

import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { decode, encode, plain } from "./msgpack.mjs";
import { StepError, Worker } from "./worker.mjs";

if (process.argv[2] === "--check") {
  process.exit(check(JSON.parse(readFileSync(process.argv[3], "utf-8")).vectors));
}

const worker = new Worker(process.argv[2], { id: process.argv[3] ?? "js-1", capabilities: ["js"] });

worker.handle("js/greet", async ({ name }, context) => {
  context.log(`greeting ${name}, attempt ${context.attempt}`);
  if (!name) throw new StepError("no-name", "whom shall I greet?", false);
  if (name === "flaky" && context.attempt < 2) throw new StepError("flaky", "try again");
  return { greeting: `Hello, ${name}!`, key: context.idempotencyKey };
});

worker.handle("js/wait", async (inputs, context) => {
  context.log("waiting");
  await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
});

process.on("SIGTERM", () => worker.drain(10_000));
worker.start();

/** Every vector is decoded to its value, and encoded to its bytes again (`wide`: to shorter ones). */
function check(vectors) {
  let wrong = 0;
  for (const { name, hex, wide, value } of vectors) {
    const found = decode(Buffer.from(hex, "hex"));
    const again = encode(found);
    const bytes = wide ? isDeepStrictEqual(decode(again), found) : again.toString("hex") === hex;
    const same = bytes && isDeepStrictEqual(plain(found), value);
    if (!same) console.log(`${name}: ${JSON.stringify(plain(found))} is not ${JSON.stringify(value)}`);
    wrong += same ? 0 : 1;
  }
  console.log(`${vectors.length} vectors, ${wrong} wrong`);
  return wrong ? 1 : 0;
}
