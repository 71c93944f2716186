// The rater's own newest rankings, with a way to change or withdraw each.

import { get, post, segment } from "./api.js";
import { uuid } from "./store.js";
import { element } from "./view.js";

export class History {
  constructor({ project, rater, onChangeRanking, onWithdrawn, onError }) {
    Object.assign(this, { project, rater, onChangeRanking, onWithdrawn, onError });
    this.box = document.getElementById("history");
    this.list = document.getElementById("history-list");
    this.box.addEventListener("toggle", () => this.refresh());
  }

  async refresh() {
    if (!this.box.open) {
      return;
    }
    try {
      const query = new URLSearchParams({ rater_id: this.rater, page_size: 8 });
      const page = await get(`/api/v1/projects/${segment(this.project)}/rankings?${query}`);
      this.draw(page.rankings);
    } catch (error) {
      this.list.replaceChildren(element("p", { class: "hint" }, `The list cannot be shown now. ${error.message}`));
    }
  }

  draw(rankings) {
    if (rankings.length === 0) {
      this.list.replaceChildren(element("p", { class: "hint" }, "You have not ranked anything in this project yet."));
      return;
    }
    this.list.replaceChildren(element("ul", {}, ...rankings.map((ranking) => this.row(ranking))));
  }

  row(ranking) {
    const change = element("button", { type: "button", class: "quiet" }, "Change");
    const withdraw = element("button", { type: "button", class: "quiet" }, "Withdraw");
    const what = orderText(ranking);
    const time = clock(ranking.submitted_at);
    change.setAttribute("aria-label", `Change the ranking of ${time}: ${what}`);
    withdraw.setAttribute("aria-label", `Withdraw the ranking of ${time}: ${what}`);
    change.addEventListener("click", () => this.onChangeRanking(ranking));
    withdraw.addEventListener("click", () => this.withdraw(ranking, withdraw));
    const note = [ranking.all_bad ? "none acceptable" : "", ranking.late ? "late" : ""].filter(Boolean).join(", ");
    return element(
      "li",
      { class: "card" },
      element("span", { class: "hint" }, time),
      element("span", { class: "order" }, what),
      element("span", { class: "hint" }, note),
      change,
      withdraw,
    );
  }

  async withdraw(ranking, button) {
    button.disabled = true;
    // The id stays with the button: pressing again after a lost answer repeats the same retraction.
    button.dataset.event ??= uuid();
    try {
      const body = { event_id: button.dataset.event, rater_id: this.rater, reason: "withdrawn by the rater" };
      await post(`/api/v1/rankings/${segment(ranking.event_id)}/retract`, body);
      this.onWithdrawn(ranking);
    } catch (error) {
      button.disabled = false;
      this.onError(error);
    }
    await this.refresh();
  }
}

// "2 > 1 = 3": numbers as they stood on this rater's screen.
function orderText(ranking) {
  const shown = ranking.shown_order;
  const name = (id) => (shown.includes(id) ? shown.indexOf(id) + 1 : id);
  return ranking.tie_groups.map((group) => group.map(name).join(" = ")).join(" > ");
}

function clock(time) {
  return time ? new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : "";
}
