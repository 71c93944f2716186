// Replaces an element's content by HTML that this console's own templates rendered (all values escaped there).

const policy = globalThis.trustedTypes?.createPolicy("preceptor-fragment", { createHTML: (html) => html });

// Returns true when it was replaced, false when the server did not answer well.
export async function replaceWithFragment(target, path) {
  let html;
  try {
    const response = await fetch(path, { signal: AbortSignal.timeout(20_000) });
    if (!response.ok) {
      return false;
    }
    html = await response.text();
  } catch {
    return false;
  }
  const open = new Set([...target.querySelectorAll("details[open][id]")].map((details) => details.id));
  target.innerHTML = policy ? policy.createHTML(html) : html;
  for (const details of target.querySelectorAll("details[id]")) {
    details.open = open.has(details.id);
  }
  return true;
}
