// One comparison on the screen and the answer being made. Every change can be undone and is kept as a draft.

import * as order from "./ranking.js";
import { drafts, uuid } from "./store.js";

const STRENGTHS = ["unspecified", "slight", "clear", "strong"];

export class Task {
  // supersedes: the ranking that is being changed, or null for a first answer.
  constructor({ rater, comparison, lease = null, supersedes = null, onChange }) {
    this.rater = rater;
    this.comparison = comparison;
    this.lease = lease;
    this.supersedes = supersedes;
    this.onChange = onChange;
    this.ids = comparison.candidates.map((candidate) => candidate.candidate_id);
    this.past = [];
    this.placedByItself = null;
    this.shownAt = lease?.leased_at ?? null;
    this.answer = supersedes ? answerOf(supersedes) : this.fromDraft();
  }

  fromDraft() {
    const draft = drafts.get(this.rater, this.comparison.comparison_id);
    const empty = { groups: [], allBad: false, strength: "unspecified", comment: "", axes: {} };
    if (!draft || draft.answer.groups.flat().some((id) => !this.ids.includes(id))) {
      return empty;
    }
    this.shownAt = draft.shownAt ?? this.shownAt;
    return { ...empty, ...draft.answer };
  }

  get hasAnswer() {
    const { groups, allBad, comment } = this.answer;
    return groups.length > 0 || allBad || comment !== "";
  }

  number(id) {
    return this.ids.indexOf(id) + 1;
  }

  change(part) {
    this.past.push(this.answer);
    this.past.splice(0, this.past.length - 200);
    this.set({ ...this.answer, ...part });
  }

  set(answer) {
    this.keep(answer);
    this.onChange(this);
  }

  keep(answer) {
    this.answer = answer;
    if (!this.supersedes) {
      drafts.put(this.rater, this.comparison.comparison_id, { answer, shownAt: this.shownAt });
    }
  }

  // Not a step of its own to undo, and nothing to redraw: the text field shows it already.
  comment(text) {
    this.keep({ ...this.answer, comment: text });
  }

  undo() {
    const before = this.past.pop();
    if (before) {
      this.set({ ...before, comment: this.answer.comment });
    }
    return before !== undefined;
  }

  regroup(groups) {
    this.placedByItself = null;
    if (!order.same(groups, this.answer.groups)) {
      this.change({ groups });
    }
  }

  toggle(id) {
    const before = this.answer.groups;
    this.regroup(order.toggle(before, id, this.ids));
    const added = this.ids.filter((other) => other !== id && !order.placed(before, other) && order.placed(this.answer.groups, other));
    this.placedByItself = added[0] ?? null;
  }

  // A number key: the key of the one that was just placed by itself confirms it, as fingers type all numbers in a row.
  press(id) {
    if (id === this.placedByItself) {
      this.placedByItself = null;
    } else {
      this.toggle(id);
    }
  }

  toggleTie(id) {
    this.regroup(order.toggleTie(this.answer.groups, id, this.ids));
  }

  move(id, step) {
    this.regroup(order.move(this.answer.groups, id, step));
  }

  insert(id, index) {
    this.regroup(order.insert(this.answer.groups, id, index));
  }

  join(id, index) {
    this.regroup(order.join(this.answer.groups, id, index));
  }

  allEqual() {
    this.regroup(order.allEqual(this.ids));
  }

  nextStrength() {
    const index = STRENGTHS.indexOf(this.answer.strength);
    this.change({ strength: STRENGTHS[(index + 1) % STRENGTHS.length] });
  }

  rate(axis, id, value) {
    const axes = { ...this.answer.axes, [axis]: { ...this.answer.axes[axis], [id]: value } };
    if (!value) {
      delete axes[axis][id];
    }
    this.change({ axes });
  }

  missing() {
    return order.missing(this.answer.groups, this.ids);
  }

  // The vote as the REST interface takes it, or null while candidates lack a place.
  vote() {
    const groups = order.complete(this.answer.groups, this.ids, this.answer.allBad);
    if (!groups) {
      return null;
    }
    const ratings = Object.entries(this.answer.axes).flatMap(([axis, values]) =>
      Object.entries(values).map(([id, value]) => ({ axis, candidate_id: id, value })),
    );
    return {
      event_id: uuid(),
      comparison_id: this.comparison.comparison_id,
      rater_id: this.rater,
      lease_id: this.lease?.lease_id ?? "",
      tie_groups: groups,
      all_bad: this.answer.allBad,
      strength: this.answer.strength,
      axis_ratings: ratings,
      comment: this.answer.comment,
      shown_at: this.shownAt,
      supersedes: this.supersedes?.event_id ?? null,
    };
  }

  dropDraft() {
    drafts.drop(this.rater, this.comparison.comparison_id);
  }
}

function answerOf(ranking) {
  const axes = {};
  for (const { axis, candidate_id, value } of ranking.axis_ratings) {
    (axes[axis] ??= {})[candidate_id] = value;
  }
  return {
    groups: ranking.tie_groups,
    allBad: ranking.all_bad,
    strength: ranking.strength,
    comment: ranking.comment,
    axes,
  };
}
