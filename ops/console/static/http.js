// Requests to the console's server.

/** The server's refusal, or the lack of an answer. `errors` has the wrong fields of a 422. */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `the server answered ${status}`);
    this.status = status;
    this.errors = problem.errors ?? [];
  }
}

let onUnauthenticated = () => {};

/** Calls `listener` when the server no longer knows who asks. */
export function whenUnauthenticated(listener) {
  onUnauthenticated = listener;
}

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, { detail: "the console does not answer; does it run? 'just ps' shows it" });
  }
  if (response.status === 204) return undefined;
  const text = await response.text();
  let document;
  try {
    document = JSON.parse(text);
  } catch {
    throw new Refusal(response.status, { detail: `the answer (${response.status}) is not JSON: ${text.slice(0, 200)}` });
  }
  if (response.status === 401) onUnauthenticated();
  if (!response.ok) throw new Refusal(response.status, document);
  return document;
}

export function get(path, signal) {
  return call(path, { signal });
}

export function post(path, body, headers = {}) {
  return call(path, { method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) });
}

export function remove(path) {
  return call(path, { method: "DELETE" });
}

/** `?a=1&b=2` of the entries that have a value, or nothing. */
export function query(entries) {
  const given = Object.entries(entries).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}
