// Dragging by mouse, pen or finger: grips are [data-grip=candidateId]; the list is `tiers`, its children the groups.

const START_PX = 5;
const EDGE_PX = 60;

export function enableDrag(root, tiers, { onInsert, onJoin }) {
  root.addEventListener("pointerdown", (event) => {
    const grip = event.target.closest("[data-grip]");
    if (grip && event.button === 0) {
      follow(grip, event, tiers, { onInsert, onJoin });
    }
  });
}

function follow(grip, start, tiers, handlers) {
  const id = grip.dataset.grip;
  let ghost = null;
  let target = null;

  const onMove = (event) => {
    if (event.pointerId !== start.pointerId) {
      return;
    }
    if (!ghost && Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) > START_PX) {
      ghost = makeGhost(grip.textContent);
    }
    if (ghost) {
      event.preventDefault();
      ghost.style.transform = `translate(${event.clientX - 18}px, ${event.clientY - 18}px)`;
      scrollNearEdge(event.clientY);
      mark(tiers, (target = targetAt(tiers, event.clientX, event.clientY)));
    }
  };
  const end = (event) => {
    for (const name of ["pointermove", "pointerup", "pointercancel"]) {
      document.removeEventListener(name, listeners[name]);
    }
    document.removeEventListener("keydown", onKey, true);
    mark(tiers, null);
    ghost?.remove();
    if (ghost) {
      // The click that follows a drag must not count as pressing the grip.
      addEventListener("click", stop, { capture: true, once: true });
      setTimeout(() => removeEventListener("click", stop, { capture: true }), 0);
    }
    if (ghost && target && event.type === "pointerup") {
      (target.join ? handlers.onJoin : handlers.onInsert)(id, target.index);
    }
  };
  const onKey = (event) => {
    if (event.key === "Escape") {
      end(event);
    }
  };
  const listeners = { pointermove: onMove, pointerup: end, pointercancel: end };
  for (const [name, listener] of Object.entries(listeners)) {
    document.addEventListener(name, listener, { passive: false });
  }
  document.addEventListener("keydown", onKey, true);
}

function stop(event) {
  event.stopPropagation();
  event.preventDefault();
}

function makeGhost(text) {
  const ghost = document.createElement("div");
  ghost.className = "ghost";
  ghost.textContent = text;
  ghost.setAttribute("aria-hidden", "true");
  document.body.append(ghost);
  return ghost;
}

// The upper and lower quarter of a group mean before and after it, the middle a tie. null: not over the list.
function targetAt(tiers, x, y) {
  const box = tiers.getBoundingClientRect();
  if (x < box.left - EDGE_PX || x > box.right + EDGE_PX || y < box.top - EDGE_PX || y > box.bottom + EDGE_PX) {
    return null;
  }
  const rows = [...tiers.children];
  for (const [index, row] of rows.entries()) {
    const { top, bottom } = row.getBoundingClientRect();
    const quarter = (bottom - top) / 4;
    if (y < top + quarter) {
      return { index, join: false };
    }
    if (y < bottom - quarter) {
      return { index, join: true };
    }
  }
  return { index: rows.length, join: false };
}

function mark(tiers, target) {
  tiers.classList.toggle("drop-empty", target !== null && tiers.children.length === 0);
  const last = tiers.children.length - 1;
  for (const [index, row] of [...tiers.children].entries()) {
    row.classList.toggle("drop-into", target !== null && target.join && target.index === index);
    row.classList.toggle("drop-before", target !== null && !target.join && target.index === index);
    row.classList.toggle("drop-after", target !== null && !target.join && target.index > last && index === last);
  }
}

function scrollNearEdge(y) {
  if (y < EDGE_PX) {
    scrollBy(0, -12);
  } else if (y > innerHeight - EDGE_PX) {
    scrollBy(0, 12);
  }
}
