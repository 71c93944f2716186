// The guidelines panel: opens, closes, and takes up a new version.

import { segment } from "./api.js";
import { replaceWithFragment } from "./fragment.js";
import { banner, clearBanner } from "./messages.js";

export class Guidelines {
  constructor(project, version) {
    this.project = project;
    this.version = version;
    this.panel = document.getElementById("guidelines-panel");
    this.button = document.getElementById("show-guidelines");
    this.button.addEventListener("click", () => this.toggle());
  }

  toggle() {
    this.panel.hidden = !this.panel.hidden;
    this.button.setAttribute("aria-expanded", String(!this.panel.hidden));
    clearBanner("guidelines");
  }

  async need(version) {
    const target = document.getElementById("guidelines");
    if (version !== this.version && (await replaceWithFragment(target, `/rank/${segment(this.project)}/guidelines`))) {
      this.version = version;
      banner("good", "guidelines", "The guidelines have changed: press g to read them.");
    }
  }
}
