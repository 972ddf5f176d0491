// msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md), as far as the protocol needs it.
//
// Maps become `Map`, so that keys that are numbers stay numbers and bytes can be made again as they
// were. Integers beyond 2^53 become BigInt. A number with a fraction is written as a float 64.

const text = new TextDecoder("utf-8", { fatal: true });

/** Return the value in *bytes*; throws on anything left over. */
export function decode(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;

  const take = (count) => {
    if (at + count > bytes.length) throw new Error("msgpack: cut off");
    at += count;
    return at - count;
  };
  const u8 = () => view.getUint8(take(1));
  const u16 = () => view.getUint16(take(2));
  const u32 = () => view.getUint32(take(4));
  const narrow = (big) => (Number.isSafeInteger(Number(big)) ? Number(big) : big);
  const string = (size) => text.decode(bytes.subarray(take(size), at));
  const binary = (size) => bytes.slice(take(size), at);
  const array = (size) => Array.from({ length: size }, value);
  const map = (size) => {
    const found = new Map();
    for (let i = 0; i < size; i++) {
      const key = value();
      found.set(key, value());
    }
    return found;
  };

  function value() {
    const tag = u8();
    if (tag < 0x80) return tag;
    if (tag < 0x90) return map(tag & 0x0f);
    if (tag < 0xa0) return array(tag & 0x0f);
    if (tag < 0xc0) return string(tag & 0x1f);
    if (tag >= 0xe0) return tag - 0x100;
    switch (tag) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return binary(u8());
      case 0xc5: return binary(u16());
      case 0xc6: return binary(u32());
      case 0xca: return view.getFloat32(take(4));
      case 0xcb: return view.getFloat64(take(8));
      case 0xcc: return u8();
      case 0xcd: return u16();
      case 0xce: return u32();
      case 0xcf: return narrow(view.getBigUint64(take(8)));
      case 0xd0: return view.getInt8(take(1));
      case 0xd1: return view.getInt16(take(2));
      case 0xd2: return view.getInt32(take(4));
      case 0xd3: return narrow(view.getBigInt64(take(8)));
      case 0xd9: return string(u8());
      case 0xda: return string(u16());
      case 0xdb: return string(u32());
      case 0xdc: return array(u16());
      case 0xdd: return array(u32());
      case 0xde: return map(u16());
      case 0xdf: return map(u32());
      default: throw new Error(`msgpack: unexpected byte 0x${tag.toString(16)}`);
    }
  }

  const found = value();
  if (at !== bytes.length) throw new Error("msgpack: bytes left over");
  return found;
}

/** Return *value* as bytes; objects count as maps with text keys. */
export function encode(value) {
  const parts = [];
  write(value, parts);
  return Buffer.concat(parts);
}

function write(value, parts) {
  if (value === null || value === undefined) parts.push(Buffer.of(0xc0));
  else if (value === false) parts.push(Buffer.of(0xc2));
  else if (value === true) parts.push(Buffer.of(0xc3));
  else if (typeof value === "number" && !Number.isSafeInteger(value)) float(value, parts);
  else if (typeof value === "number" || typeof value === "bigint") integer(BigInt(value), parts);
  else if (typeof value === "string") {
    const bytes = Buffer.from(value, "utf-8");
    head(bytes.length, parts, [0xa0, 31], 0xd9, 0xda, 0xdb);
    parts.push(bytes);
  } else if (value instanceof Uint8Array) {
    head(value.length, parts, null, 0xc4, 0xc5, 0xc6);
    parts.push(Buffer.from(value));
  } else if (Array.isArray(value)) {
    head(value.length, parts, [0x90, 15], null, 0xdc, 0xdd);
    for (const item of value) write(item, parts);
  } else {
    const entries = value instanceof Map ? [...value] : Object.entries(value);
    head(entries.length, parts, [0x80, 15], null, 0xde, 0xdf);
    for (const [key, item] of entries) {
      write(key, parts);
      write(item, parts);
    }
  }
}

/** The size in front of text, bytes, arrays and maps, in the shortest form there is. */
function head(size, parts, fixed, tag8, tag16, tag32) {
  if (fixed && size <= fixed[1]) parts.push(Buffer.of(fixed[0] | size));
  else if (tag8 && size < 0x100) parts.push(Buffer.of(tag8, size));
  else if (size < 0x10000) parts.push(Buffer.of(tag16, size >> 8, size & 0xff));
  else {
    const bytes = Buffer.alloc(5);
    bytes[0] = tag32;
    bytes.writeUInt32BE(size, 1);
    parts.push(bytes);
  }
}

function integer(value, parts) {
  if (value >= 0n) {
    if (value < 0x80n) return parts.push(Buffer.of(Number(value)));
    if (value < 0x100n) return parts.push(Buffer.of(0xcc, Number(value)));
    if (value < 0x10000n) return sized(0xcd, 2, value, parts);
    if (value < 0x100000000n) return sized(0xce, 4, value, parts);
    return sized(0xcf, 8, value, parts);
  }
  if (value >= -32n) return parts.push(Buffer.of(Number(value + 0x100n)));
  if (value >= -0x80n) return sized(0xd0, 1, value, parts);
  if (value >= -0x8000n) return sized(0xd1, 2, value, parts);
  if (value >= -0x80000000n) return sized(0xd2, 4, value, parts);
  return sized(0xd3, 8, value, parts);
}

function sized(tag, width, value, parts) {
  const bytes = Buffer.alloc(1 + width);
  bytes[0] = tag;
  let rest = BigInt.asUintN(width * 8, value);
  for (let at = width; at > 0; at--, rest >>= 8n) bytes[at] = Number(rest & 0xffn);
  parts.push(bytes);
}

function float(value, parts) {
  const bytes = Buffer.alloc(9);
  bytes[0] = 0xcb;
  bytes.writeDoubleBE(value, 1);
  parts.push(bytes);
}

/** Return *value* as JSON has it: maps as objects, bytes as `{"$bin": "<hex>"}`. */
export function plain(value) {
  if (value instanceof Map) {
    return Object.fromEntries([...value].map(([key, item]) => [String(key), plain(item)]));
  }
  if (value instanceof Uint8Array) return { $bin: Buffer.from(value).toString("hex") };
  if (Array.isArray(value)) return value.map(plain);
  return typeof value === "bigint" ? value.toString() : value;
}
