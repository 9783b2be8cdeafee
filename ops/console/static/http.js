// Requests to the console's server.

/** The server's refusal, or the lack of an answer. `errors` has the wrong fields of a 422. */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `the server answered ${status}`);
    this.status = status;
    this.errors = problem.errors ?? [];
  }
}

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, { detail: "the console does not answer; does it run? 'just ps' shows it" });
  }
  const text = await response.text();
  let document;
  try {
    document = JSON.parse(text);
  } catch {
    throw new Refusal(response.status, { detail: `the answer (${response.status}) is not JSON: ${text.slice(0, 200)}` });
  }
  if (!response.ok) throw new Refusal(response.status, document);
  return document;
}

export function get(path, signal) {
  return call(path, { signal });
}

export function post(path, body, headers = {}) {
  return call(path, { method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) });
}

/** `?a=1&b=2` of the entries that have a value, or nothing. */
export function query(entries) {
  const given = Object.entries(entries).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
}
