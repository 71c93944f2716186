// One line on how far this rater and the project are.

import { get, segment } from "./api.js";
import { element } from "./view.js";

export class Progress {
  constructor({ project, rater, onChangeLast }) {
    Object.assign(this, { project, rater, onChangeLast });
    this.own = null;
    this.open = 0;
    this.last = null;
    this.line = document.getElementById("progress");
  }

  async load() {
    try {
      const stats = await get(`/api/v1/projects/${segment(this.project)}/stats`);
      this.own = stats.raters.find((other) => other.rater_id === this.rater)?.rankings ?? 0;
      this.open = stats.comparisons_open;
    } catch {
      this.own = null; // it is decoration: the page works without it
    }
    this.draw();
  }

  saved(ranking, isNew) {
    this.last = ranking;
    if (this.own !== null && isNew) {
      this.own += 1;
    }
    this.draw();
  }

  withdrawn(ranking) {
    if (this.last?.event_id === ranking.event_id) {
      this.last = null;
    }
    this.load();
  }

  draw() {
    this.line.replaceChildren(this.own === null ? "" : `${this.own} ranked by you · ${this.open} open`);
    if (this.last) {
      const button = element("button", { type: "button", class: "quiet small", id: "change-last" }, "Change the last one");
      button.addEventListener("click", () => this.onChangeLast(this.last));
      this.line.append(" ", button);
    }
  }
}
