// A project's admin page: pausing raters, and changing settings.

import { post, request, segment } from "./api.js";

const form = document.getElementById("settings");
const project = `/api/v1/projects/${segment(form.dataset.project)}`;
const message = document.getElementById("admin-message");
const dialog = document.getElementById("pause-dialog");
const reason = document.getElementById("pause-reason");
const NUMBERS = ["gold_rate", "repeat_rate", "pause_below_reliability", "pause_below_gold_accuracy", "pause_after"];

for (const button of document.querySelectorAll("[data-resume]")) {
  button.addEventListener("click", () => setState(button.dataset.resume, { paused: false, reason: "" }));
}
for (const button of document.querySelectorAll("[data-pause]")) {
  button.addEventListener("click", () => {
    dialog.dataset.rater = button.dataset.pause;
    reason.value = "";
    dialog.showModal();
  });
}
dialog.addEventListener("close", () => {
  if (dialog.returnValue === "pause") {
    setState(dialog.dataset.rater, { paused: true, reason: reason.value });
  }
});

async function setState(rater, state) {
  try {
    await post(`${project}/raters/${segment(rater)}/state`, state);
    location.reload();
  } catch (error) {
    message.textContent = error.message;
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const state = document.getElementById("settings-state");
  const settings = Object.fromEntries(NUMBERS.map((name) => [name, Number(form.elements[name].value)]));
  const body = { default_overlap: Number(form.elements.default_overlap.value), settings };
  if (form.elements.guidelines.value !== form.elements.guidelines.defaultValue) {
    body.guidelines = form.elements.guidelines.value;
  }
  try {
    await request("PATCH", project, body);
    form.elements.guidelines.defaultValue = form.elements.guidelines.value;
    state.textContent = "Saved.";
  } catch (error) {
    state.textContent = error.message;
  }
});
