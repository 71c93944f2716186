// The first page: under which pseudonym, in which project.

import { post, segment } from "./api.js";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const form = document.getElementById("start");
const rater = document.getElementById("rater");

if (!rater.value) {
  rater.value = suggestion();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = rater.value.trim();
  const valid = NAME.test(name);
  say("rater-error", valid ? "" : "Use 1 to 63 letters, digits, dots, dashes or underscores, a letter or digit first.");
  rater.setAttribute("aria-invalid", String(!valid));
  if (!valid) {
    rater.focus();
    return;
  }
  const project = new FormData(form).get("project");
  try {
    await post("/session", { rater_id: name });
    if (project) {
      location.assign(`/rank/${segment(project)}`);
    }
  } catch (error) {
    say("start-error", error.message);
  }
});

function say(id, text) {
  const node = document.getElementById(id);
  if (node) {
    node.textContent = text;
  }
}

// A name that says nothing about its bearer.
function suggestion() {
  const words = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbor", "inlet", "juniper", "larch", "meadow"];
  const [word, number] = crypto.getRandomValues(new Uint16Array(2));
  return `${words[word % words.length]}-${1000 + (number % 9000)}`;
}
