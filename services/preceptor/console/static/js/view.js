// Draws a task. Prompts and completions are text that a model wrote: they only ever become text nodes.

import { ordinal, placeOf } from "./ranking.js";

const byId = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export class View {
  constructor(axes) {
    this.axes = axes;
  }

  // A new task: prompt and completions are drawn once, the answer again on each change.
  show(task) {
    byId("prompt").replaceChildren(...task.comparison.prompt.map(turn));
    byId("candidates").replaceChildren(...task.comparison.candidates.map((item) => this.candidate(task, item)));
    byId("comment").value = task.answer.comment;
    byId("comment-box").open = task.answer.comment !== "";
    byId("cancel-change").hidden = !task.supersedes;
    byId("skip").hidden = Boolean(task.supersedes);
    byId("lease-line").textContent = "";
    byId("waiting").hidden = true;
    byId("task").hidden = false;
    this.update(task);
    byId("prompt").focus({ preventScroll: true });
    scrollTo(0, 0);
  }

  wait(title, text) {
    byId("task").hidden = true;
    byId("waiting").hidden = false;
    byId("waiting-title").textContent = title;
    byId("waiting-text").textContent = text;
  }

  candidate(task, { candidate_id: id, text }) {
    const number = task.number(id);
    return element(
      "li",
      { class: "candidate card", "data-candidate": id },
      grip(id, number, "card"),
      element(
        "div",
        { class: "body" },
        element("p", { class: "text", dir: "auto" }, text || "(empty)"),
        this.axes.length ? element("div", { class: "axes" }, ...this.axes.map((axis) => axisChoice(task, axis, id))) : null,
        element(
          "div",
          { class: "foot" },
          element("span", { class: "place" }),
          button("toggle", id, "card-toggle", "Rank next"),
          button("tie", id, "card-tie", "Tie"),
        ),
      ),
    );
  }

  update(task) {
    const focused = document.activeElement?.dataset?.key;
    for (const card of byId("candidates").children) {
      updateCard(card, task);
    }
    byId("tiers").replaceChildren(...task.answer.groups.map((group, index) => tier(task, group, index)));
    byId("all-bad").checked = task.answer.allBad;
    document.querySelector(`input[name=strength][value=${task.answer.strength}]`).checked = true;
    byId("undo").disabled = task.past.length === 0;
    if (byId("comment").value !== task.answer.comment) {
      byId("comment").value = task.answer.comment;
    }
    if (focused && document.activeElement === document.body) {
      document.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    }
  }

  leaseLine(text) {
    byId("lease-line").textContent = text;
  }
}

function turn({ role, content }) {
  const names = { user: "Person", assistant: "Assistant", system: "Instructions", prompt: null };
  const name = role in names ? names[role] : role;
  return element(
    "div",
    { class: "turn" },
    name ? element("p", { class: "role" }, name) : null,
    element("p", { class: "text", dir: "auto" }, content),
  );
}

function updateCard(card, task) {
  const { groups } = task.answer;
  const id = card.dataset.candidate;
  const where = placeOf(groups, id);
  const index = groups.findIndex((group) => group.includes(id));
  const tied = index >= 0 && groups[index].length > 1;
  card.classList.toggle("placed", where !== "");
  const place = card.querySelector(".place");
  place.textContent = where || "not ranked";
  place.classList.toggle("none", where === "");
  const toggle = card.querySelector(".foot [data-do=toggle]");
  toggle.textContent = where ? "Take out" : groups.length ? "Rank next" : "Rank first";
  toggle.setAttribute("aria-label", `${toggle.textContent}: completion ${task.number(id)}`);
  const tie = card.querySelector(".foot [data-do=tie]");
  tie.hidden = groups.length === 0 || (index === 0 && !tied);
  tie.textContent = tied ? "Split" : "Tie";
  tie.setAttribute("aria-label", tied ? `Split completion ${task.number(id)} from its tie` : `Tie completion ${task.number(id)} with the one above`);
  tie.title = tied ? "A place of its own" : "As good as the one above";
}

function tier(task, group, index) {
  const before = task.answer.groups.slice(0, index).reduce((sum, other) => sum + other.length, 0);
  return element(
    "li",
    { class: "tier" },
    element("span", { class: "ordinal" }, ordinal(before + 1)),
    element("ul", { class: "chips" }, ...group.map((id) => chip(task, id, index))),
  );
}

function chip(task, id, index) {
  const number = task.number(id);
  const { text } = task.comparison.candidates[number - 1];
  const tied = task.answer.groups[index].length > 1;
  const last = index === task.answer.groups.length - 1;
  return element(
    "li",
    { class: "chip" },
    grip(id, number, "chip"),
    element("span", { class: "excerpt", dir: "auto" }, text.slice(0, 120).replace(/\s+/g, " ") || "(empty)"),
    element(
      "span",
      { class: "moves" },
      button("up", id, "chip-up", "↑", `Move completion ${number} up`, index === 0 && !tied),
      button("down", id, "chip-down", "↓", `Move completion ${number} down`, last && !tied),
      button("toggle", id, "chip-out", "×", `Take completion ${number} out`),
    ),
  );
}

function grip(id, number, place) {
  const label = `Completion ${number}: ${place === "card" ? "rank it next, or take it out" : "drag, or press to take it out"}`;
  const attributes = { type: "button", class: "grip", "data-grip": id, "data-do": "toggle", "data-id": id };
  return element("button", { ...attributes, "data-key": `${place}-grip:${id}`, "aria-label": label }, String(number));
}

function button(action, id, key, text, label = null, disabled = false) {
  const attributes = { type: "button", class: "quiet", "data-do": action, "data-id": id, "data-key": `${key}:${id}` };
  return element("button", { ...attributes, "aria-label": label, disabled }, text);
}

function axisChoice(task, axis, id) {
  const chosen = task.answer.axes[axis]?.[id] ?? "";
  const options = ["", 1, 2, 3, 4, 5, 6, 7].map((value) =>
    element("option", { value, selected: String(value) === String(chosen) }, value === "" ? "–" : String(value)),
  );
  const select = element("select", { "data-axis": axis, "data-id": id }, ...options);
  return element("label", {}, axis, select);
}
