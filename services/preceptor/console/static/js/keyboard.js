// Keys of the labelling page. Text fields keep their keys; a focused button or link keeps Enter and Space.

export function enableKeys(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) {
      return;
    }
    if (act(event, actions)) {
      event.preventDefault();
    }
  });
}

function act(event, actions) {
  const command = event.ctrlKey || event.metaKey;
  if (event.key === "Enter") {
    const busy = isText(event.target) || event.target.closest("button, a, summary, select");
    return (command || !busy) && !event.repeat && run(actions.submit);
  }
  if (isText(event.target) || event.altKey) {
    return false;
  }
  if (command) {
    return event.key.toLowerCase() === "z" && !event.shiftKey && run(actions.undo);
  }
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code)?.[1];
  if (digit !== undefined && !event.target.closest("select")) {
    return digit === "0" ? run(actions.allEqual) : run(() => actions.digit(Number(digit), event.shiftKey));
  }
  const byKey = {
    u: actions.undo,
    Backspace: actions.undo,
    b: actions.allBad,
    s: actions.strength,
    c: actions.comment,
    x: actions.skip,
    g: actions.guidelines,
    "?": actions.help,
  };
  const action = event.target.closest("select") ? undefined : byKey[event.key];
  return action !== undefined && run(action);
}

function run(action) {
  action();
  return true;
}

function isText(target) {
  return target.matches("textarea, input:not([type=radio], [type=checkbox])");
}
