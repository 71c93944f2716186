// Sends votes: each stands in the browser's storage before it goes out and leaves it only when the server has answered.
// The same event_id goes out each time, so a vote that arrived without us hearing of it is not counted again.

import { post } from "./api.js";
import { outbox, refused } from "./store.js";

const PAUSES_S = [1, 2, 4, 8, 15];

export class Sender {
  // onSent(item, ranking), onRefused(item, error), onWaiting(items, error)
  constructor({ onSent, onRefused, onWaiting }) {
    this.onSent = onSent;
    this.onRefused = onRefused;
    this.onWaiting = onWaiting;
    this.tries = 0;
    this.timer = null;
    this.running = null;
    this.waiters = [];
    globalThis.addEventListener("online", () => this.flush());
  }

  // Keeps the vote, then tries to send it.
  submit(vote, about) {
    outbox.put({ vote, about, at: Date.now() });
    return this.flush();
  }

  // Sends what is kept. Resolves to true when nothing is left.
  flush() {
    this.running ??= this.flushOnce().finally(() => {
      this.running = null;
    });
    return this.running;
  }

  // Resolves when nothing is left to send.
  async empty() {
    if (!(await this.flush())) {
      await new Promise((resolve) => this.waiters.push(resolve));
    }
  }

  async flushOnce() {
    clearTimeout(this.timer);
    for (let items = outbox.all(); items.length > 0; items = outbox.all()) {
      const error = await this.send(items[0]);
      if (error) {
        this.onWaiting(items, error);
        this.tryLater(error);
        return false;
      }
    }
    this.tries = 0;
    this.waiters.splice(0).forEach((resolve) => resolve());
    return true;
  }

  async send(item) {
    try {
      const ranking = await post("/api/v1/rankings", item.vote);
      outbox.drop(item);
      this.onSent(item, ranking);
      return null;
    } catch (error) {
      if (error.passing) {
        return error;
      }
      refused.put({ ...item, message: error.message });
      outbox.drop(item);
      this.onRefused(item, error);
      return null;
    }
  }

  tryLater(error) {
    const pause = error.retryAfterS ?? PAUSES_S[Math.min(this.tries, PAUSES_S.length - 1)];
    this.tries += 1;
    this.timer = setTimeout(() => this.flush(), pause * 1000);
  }
}
