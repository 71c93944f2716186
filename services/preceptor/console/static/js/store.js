// What this browser keeps: drafts, votes not yet sent, votes that the server refused. One key per item, so that two tabs
// do not overwrite each other. Where storage is refused, memory stands in and `durable` is false.

const PREFIX = "preceptor";
const memory = new Map();
export let durable = true;

function read(key) {
  try {
    return localStorage.getItem(key) ?? memory.get(key) ?? null;
  } catch {
    return memory.get(key) ?? null;
  }
}

function write(key, value) {
  memory.set(key, value);
  try {
    localStorage.setItem(key, value);
    memory.delete(key);
  } catch {
    durable = false;
  }
}

function erase(key) {
  memory.delete(key);
  try {
    localStorage.removeItem(key);
  } catch {
    durable = false;
  }
}

function keys(start) {
  const found = [...memory.keys()];
  try {
    for (let index = 0; index < localStorage.length; index += 1) {
      found.push(localStorage.key(index));
    }
  } catch {
    durable = false;
  }
  return found.filter((key) => key.startsWith(start)).sort();
}

function parsed(text) {
  try {
    return text === null ? null : JSON.parse(text);
  } catch {
    return null;
  }
}

const draftKey = (rater, comparison) => `${PREFIX}.draft.${rater}.${comparison}`;

export const drafts = {
  get: (rater, comparison) => parsed(read(draftKey(rater, comparison))),
  put: (rater, comparison, draft) => write(draftKey(rater, comparison), JSON.stringify(draft)),
  drop: (rater, comparison) => erase(draftKey(rater, comparison)),
};

function box(name) {
  const start = `${PREFIX}.${name}.`;
  return {
    all: () =>
      keys(start)
        .map((key) => parsed(read(key)))
        .filter((item) => item !== null)
        .sort((left, right) => left.at - right.at),
    put: (item) => write(start + item.vote.event_id, JSON.stringify(item)),
    drop: (item) => erase(start + item.vote.event_id),
  };
}

export const outbox = box("unsent");
export const refused = box("refused");

// randomUUID exists on https and localhost only; the console may be reached over plain http in a closed network.
export function uuid() {
  if (crypto.randomUUID) {
    return crypto.randomUUID();
  }
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
