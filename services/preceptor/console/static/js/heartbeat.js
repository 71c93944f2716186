// Keeps a lease alive while its page is open and somebody is there.

import { post, segment } from "./api.js";

const IDLE_MS = 20 * 60 * 1000;

export class Heartbeat {
  constructor(rater, onState) {
    this.rater = rater;
    this.onState = onState;
    this.timer = null;
    this.touched = Date.now();
    for (const name of ["pointerdown", "keydown", "scroll"]) {
      addEventListener(name, () => (this.touched = Date.now()), { passive: true, capture: true });
    }
  }

  start(lease) {
    this.stop();
    this.lease = lease;
    this.later(lease.expires_in_seconds);
  }

  stop() {
    clearTimeout(this.timer);
    this.lease = null;
  }

  later(expiresInSeconds) {
    this.timer = setTimeout(() => this.beat(), Math.max(1, expiresInSeconds / 3) * 1000);
  }

  async beat() {
    const lease = this.lease;
    if (Date.now() - this.touched > IDLE_MS) {
      this.onState("You seem to be away, so this comparison may go to somebody else. Your ranking still counts.");
      return;
    }
    try {
      const answer = await post(`/api/v1/leases/${segment(lease.lease_id)}/extend`, { rater_id: this.rater });
      if (this.lease === lease) {
        this.onState("");
        this.later(answer.expires_in_seconds);
      }
    } catch (error) {
      if (this.lease !== lease) {
        return;
      }
      if (error.passing) {
        this.later(6);
      } else {
        this.onState("Your hold on this comparison has run out; somebody else may rank it too. Your ranking still counts.");
      }
    }
  }
}
