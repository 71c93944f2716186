// Keeps a page's panel current: fetches it again every few seconds while the page is looked at.

import { replaceWithFragment } from "./fragment.js";

const panel = document.getElementById("live");
const state = document.getElementById("live-state");
const everyMs = Number(panel.dataset.everyS) * 1000;

async function refresh() {
  if (!document.hidden && !reading()) {
    const fresh = await replaceWithFragment(panel, panel.dataset.source);
    const text = fresh ? "" : "The console does not answer; what you see is from before. Trying again.";
    if (state.textContent !== text) {
      state.textContent = text;
    }
  }
  setTimeout(refresh, everyMs);
}

// Replacing what somebody has selected or focused would take it away from them.
function reading() {
  const selection = getSelection();
  return panel.contains(document.activeElement) || (!selection.isCollapsed && panel.contains(selection.anchorNode));
}

setTimeout(refresh, everyMs);
