// The labelling page: leases a comparison, lets a person rank it, sends the vote, goes on.

import { get, post, segment } from "./api.js";
import { enableDrag } from "./drag.js";
import { Guidelines } from "./guidelines.js";
import { Heartbeat } from "./heartbeat.js";
import { History } from "./history.js";
import { enableKeys } from "./keyboard.js";
import { announce, banner, clearBanner, showRefused, showUnsent } from "./messages.js";
import { Sender } from "./outbox.js";
import { Progress } from "./progress.js";
import { outbox } from "./store.js";
import { Task } from "./task.js";
import { View } from "./view.js";

const byId = (id) => document.getElementById(id);
const { project, rater } = byId("workspace").dataset;
const view = new View(JSON.parse(byId("workspace").dataset.axes));
let task = null;
let turn = 0; // grows with each search for work; an older search that comes back late gives up

const guidelines = new Guidelines(project, Number(byId("workspace").dataset.guidelineVersion));
const progress = new Progress({ project, rater, onChangeLast: (ranking) => changeRanking(ranking) });
const heartbeat = new Heartbeat(rater, (text) => view.leaseLine(text));
const history = new History({
  project,
  rater,
  onChangeRanking: (ranking) => changeRanking(ranking),
  onWithdrawn: (ranking) => {
    announce("Withdrawn.");
    progress.withdrawn(ranking);
  },
  onError: (error) => banner("error", "withdraw", error.message),
});
const sender = new Sender({
  onSent: (item, ranking) => {
    clearBanner("unsent");
    progress.saved(ranking, !item.vote.supersedes);
    announce("Saved.");
    history.refresh();
  },
  onRefused: () => showRefused(),
  onWaiting: (items, error) => showUnsent(items.length, error),
});

async function next() {
  const mine = ++turn;
  task = null;
  heartbeat.stop();
  view.wait("Looking for something to rank…", "");
  for (;;) {
    const pauseS = await lookOnce(mine);
    if (mine !== turn || pauseS === null) {
      return;
    }
    await pause(pauseS);
    if (mine !== turn) {
      return;
    }
  }
}

// Shows the next comparison and returns null, or says why not and returns after how many seconds to look again.
async function lookOnce(mine) {
  if (outbox.all().length > 0) {
    view.wait("Sending your ranking…", "It is kept in this browser until it has arrived.");
    await sender.empty();
  }
  try {
    const offer = await post(`/api/v1/projects/${segment(project)}/leases`, { rater_id: rater });
    if (mine !== turn) {
      return null;
    }
    clearBanner("lease");
    if (offer.lease) {
      open(offer.lease);
      return null;
    }
    view.wait("Nothing to rank right now", "New comparisons appear by themselves; this page keeps checking.");
    return Math.min(Math.max(offer.retry_after_seconds, 1), 30);
  } catch (error) {
    if (mine !== turn) {
      return null;
    }
    if (!error.passing) {
      const paused = error.reason === "RATER_PAUSED";
      view.wait(paused ? "You are paused in this project" : "This project cannot be ranked", error.message);
      return 30;
    }
    view.wait("The feedback service does not answer", `${error.message} This page tries again by itself.`);
    return error.retryAfterS ?? 2;
  }
}

function open(lease) {
  task = new Task({ rater, comparison: lease.comparison, lease, onChange: changed });
  const resumed = task.hasAnswer;
  view.show(task);
  heartbeat.start(lease);
  announce(resumed ? "Your draft is back." : `New comparison with ${task.ids.length} completions.`);
  guidelines.need(lease.guideline_version);
}

function changed() {
  view.update(task);
  const rest = task.missing().length;
  announce(`${describe()} ${rest ? `${rest} to go.` : "All ranked; Enter submits."}`);
}

function describe() {
  return task.answer.groups.map((group) => group.map((id) => task.number(id)).join(" and ")).join(", then ") + ".";
}

async function submit() {
  if (!task) {
    return;
  }
  const vote = task.vote();
  if (!vote) {
    const rest = task.missing().map((id) => task.number(id));
    const list = rest.length > 1 ? `${rest.slice(0, -1).join(", ")} and ${rest.at(-1)} have` : `${rest[0]} has`;
    banner("warning", "incomplete", `Not sent yet: completion ${list} no place. Rank them, or tick “None of them is acceptable”.`);
    return;
  }
  clearBanner("incomplete");
  const done = task;
  const sending = sender.submit(vote, { project });
  if (!done.supersedes) {
    done.dropDraft();
  }
  task = null;
  view.wait("Saving…", "");
  await sending;
  await next();
}

async function skip() {
  const dialog = byId("skip-dialog");
  if (!task || task.supersedes || dialog.open) {
    return;
  }
  dialog.returnValue = "";
  dialog.showModal();
}

async function skipped() {
  if (byId("skip-dialog").returnValue !== "skip" || !task) {
    return;
  }
  const note = byId("skip-note").value.trim();
  const reason = byId("skip-reason").value + (note ? `: ${note}` : "");
  const body = { rater_id: rater, reason, flag: byId("skip-flag").checked };
  try {
    await post(`/api/v1/leases/${segment(task.lease.lease_id)}/release`, body);
  } catch (error) {
    banner("error", "skip", `It was not skipped. ${error.message}`);
    return;
  }
  clearBanner("skip");
  byId("skip-note").value = "";
  byId("skip-flag").checked = false;
  task.dropDraft();
  announce("Skipped.");
  await next();
}

async function changeRanking(ranking) {
  try {
    const comparison = await get(`/api/v1/comparisons/${ranking.comparison_id.split("/").map(segment).join("/")}`);
    const shown = ranking.shown_order;
    comparison.candidates.sort((a, b) => shown.indexOf(a.candidate_id) - shown.indexOf(b.candidate_id));
    turn += 1;
    task = new Task({ rater, comparison, supersedes: ranking, onChange: changed });
    view.show(task);
    view.leaseLine("You are changing a ranking that you made earlier.");
    announce("You are changing an earlier ranking.");
  } catch (error) {
    banner("error", "change", `It cannot be changed now. ${error.message}`);
  }
}

function pause(seconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    addEventListener("online", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

// ---- wiring ----

const onTask = (action) => () => task && action(task);

function wire() {
  const doIt = {
    toggle: (id) => task.toggle(id),
    tie: (id) => task.toggleTie(id),
    up: (id) => task.move(id, -1),
    down: (id) => task.move(id, 1),
  };
  byId("task").addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (button && task) {
      doIt[button.dataset.do](button.dataset.id);
    }
    if (event.detail > 0) {
      document.activeElement?.closest("#task button")?.blur(); // so that Enter submits instead of pressing it again
    }
  });
  byId("task").addEventListener("change", (event) => {
    const { axis, id } = event.target.dataset;
    if (axis && task) {
      task.rate(axis, id, Number(event.target.value) || 0);
    } else if (event.target.name === "strength") {
      task?.change({ strength: event.target.value });
    }
  });
  byId("all-bad").addEventListener("change", (event) => task?.change({ allBad: event.target.checked }));
  byId("comment").addEventListener("input", (event) => task?.comment(event.target.value));
  byId("undo").addEventListener("click", onTask((it) => it.undo()));
  byId("submit").addEventListener("click", submit);
  byId("skip").addEventListener("click", skip);
  byId("skip-dialog").addEventListener("close", skipped);
  byId("cancel-change").addEventListener("click", next);
  byId("show-keys").addEventListener("click", () => byId("keys-dialog").showModal());
  enableDrag(byId("task"), byId("tiers"), {
    onInsert: (id, index) => task?.insert(id, index),
    onJoin: (id, index) => task?.join(id, index),
  });
}

function number(n, tie) {
  const id = task?.ids[n - 1];
  if (id !== undefined) {
    tie ? task.toggleTie(id) : task.press(id);
  }
}

wire();
enableKeys({
  submit,
  undo: onTask((it) => it.undo()),
  allEqual: onTask((it) => it.allEqual()),
  digit: number,
  allBad: onTask((it) => it.change({ allBad: !it.answer.allBad })),
  strength: onTask((it) => it.nextStrength()),
  comment: onTask(() => {
    byId("comment-box").open = true;
    byId("comment").focus();
  }),
  skip,
  guidelines: () => guidelines.toggle(),
  help: () => byId("keys-dialog").showModal(),
});
if (outbox.all().length > 0) {
  announce("Rankings kept from before are being sent.");
}
showRefused();
progress.load();
next();
