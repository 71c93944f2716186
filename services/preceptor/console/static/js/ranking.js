// The order a person is making: tie groups of candidate ids, best first. Pure functions: each returns new groups.

export const placed = (groups, id) => groups.some((group) => group.includes(id));

export function missing(groups, ids) {
  return ids.filter((id) => !placed(groups, id));
}

export function remove(groups, id) {
  return groups.map((group) => group.filter((other) => other !== id)).filter((group) => group.length > 0);
}

// The next place for a candidate without one; out again for one that has it. The last one left is placed by itself.
export function toggle(groups, id, ids) {
  if (placed(groups, id)) {
    return remove(groups, id);
  }
  return withLast([...groups, [id]], ids);
}

// Joins the group above; a candidate without a place joins the last group; one already in a tie gets its own place below.
export function toggleTie(groups, id, ids) {
  if (!placed(groups, id)) {
    const last = groups.length - 1;
    const joined = last < 0 ? [[id]] : groups.map((group, index) => (index === last ? [...group, id] : group));
    return withLast(joined, ids);
  }
  const index = groups.findIndex((group) => group.includes(id));
  if (groups[index].length > 1) {
    const rest = groups[index].filter((other) => other !== id);
    return [...groups.slice(0, index), rest, [id], ...groups.slice(index + 1)];
  }
  if (index === 0) {
    return groups;
  }
  return [...groups.slice(0, index - 1), [...groups[index - 1], id], ...groups.slice(index + 1)];
}

// One step up or down: out of a tie into a place of its own, else past the neighbouring group.
export function move(groups, id, step) {
  const index = groups.findIndex((group) => group.includes(id));
  if (index < 0) {
    return groups;
  }
  if (groups[index].length > 1) {
    return insert(groups, id, step < 0 ? index : index + 1);
  }
  const target = index + step;
  if (target < 0 || target >= groups.length) {
    return groups;
  }
  const moved = groups.slice();
  [moved[index], moved[target]] = [moved[target], moved[index]];
  return moved;
}

// A place of its own before the group that stands at `index` now (index = groups.length: at the end).
export function insert(groups, id, index) {
  const result = [];
  groups.forEach((group, at) => {
    if (at === index) {
      result.push([id]);
    }
    result.push(group.filter((other) => other !== id));
  });
  if (index >= groups.length) {
    result.push([id]);
  }
  return result.filter((group) => group.length > 0);
}

// Into the group that stands at `index` now.
export function join(groups, id, index) {
  if (groups[index].includes(id)) {
    return groups;
  }
  return groups
    .map((group, at) => [...group.filter((other) => other !== id), ...(at === index ? [id] : [])])
    .filter((group) => group.length > 0);
}

export function allEqual(ids) {
  return [ids.slice()];
}

// What is sent: with `allBad`, candidates without a place are equal last; without it they must not exist.
export function complete(groups, ids, allBad) {
  const rest = missing(groups, ids);
  if (rest.length === 0) {
    return groups;
  }
  return allBad ? [...groups, rest] : null;
}

export function same(left, right) {
  return JSON.stringify(left) === JSON.stringify(right);
}

// "2nd", or "2nd, tied"; "" without a place. A tie of two on the first place makes the next one third.
export function placeOf(groups, id) {
  let before = 0;
  for (const group of groups) {
    if (group.includes(id)) {
      return ordinal(before + 1) + (group.length > 1 ? ", tied" : "");
    }
    before += group.length;
  }
  return "";
}

export function ordinal(n) {
  return `${n}${["th", "st", "nd", "rd"][n % 10 < 4 && Math.floor(n / 10) % 10 !== 1 ? n % 10 : 0]}`;
}

function withLast(groups, ids) {
  const rest = missing(groups, ids);
  return rest.length === 1 && ids.length > 1 ? [...groups, rest] : groups;
}
