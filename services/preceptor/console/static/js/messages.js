// What the page says around the task: banners for people, announcements for screen readers.

import { durable, refused } from "./store.js";
import { element } from "./view.js";

export function announce(text) {
  document.getElementById("announce").textContent = text;
}

export function banner(kind, name, text, ...actions) {
  clearBanner(name);
  const attributes = { class: `banner ${kind}`, "data-banner": name };
  document.getElementById("banners").append(element("p", attributes, element("span", {}, text), ...actions));
}

export function clearBanner(name) {
  document.querySelector(`[data-banner=${name}]`)?.remove();
}

export function showUnsent(count, error) {
  const what = count === 1 ? "1 ranking is" : `${count} rankings are`;
  const then = count === 1 ? "It goes out by itself and counts once." : "They go out by themselves and count once.";
  const where = durable ? "kept in this browser" : "kept in this tab (leave it open: this browser stores nothing)";
  const why = error.status ? error.message : "There is no connection to the console.";
  banner("warning", "unsent", `${why} ${what} ${where}. ${then}`);
}

export function showRefused() {
  clearBanner("refused");
  const item = refused.all()[0];
  if (!item) {
    return;
  }
  const drop = element("button", { type: "button" }, "Discard it");
  drop.addEventListener("click", () => {
    refused.drop(item);
    showRefused();
  });
  banner("error", "refused", `A ranking was not taken: ${item.message}`, drop);
}
