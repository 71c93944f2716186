// Calls to this console's own server. An answer that is an error is an ApiError; no answer at all is a NetworkError.

const CLIENT = "console/1";
const TIMEOUT_MS = 20_000;

export class ApiError extends Error {
  constructor(status, problem, retryAfterS) {
    super(problem.message || `The server answered ${status}.`);
    this.status = status;
    this.code = problem.code || "";
    this.reason = problem.reason || "";
    this.field = problem.field || "";
    this.retryAfterS = retryAfterS;
  }

  // True when the same request may succeed later.
  get passing() {
    return this.status === 429 || this.status >= 500;
  }
}

export class NetworkError extends Error {
  get passing() {
    return true;
  }
}

export const get = (path) => request("GET", path);
export const post = (path, body) => request("POST", path, body);

export function segment(text) {
  return encodeURIComponent(text);
}

export async function request(method, path, body) {
  const options = { method, headers: { Accept: "application/json" }, signal: AbortSignal.timeout(TIMEOUT_MS) };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.headers["X-Preceptor-Client"] = CLIENT;
    options.body = JSON.stringify(body);
  }
  let response;
  let text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch {
    throw new NetworkError("The console cannot be reached.");
  }
  if (response.ok) {
    return text ? JSON.parse(text) : null;
  }
  throw new ApiError(response.status, parsed(text), Number(response.headers.get("Retry-After")) || null);
}

function parsed(text) {
  try {
    return JSON.parse(text) || {};
  } catch {
    return {};
  }
}
