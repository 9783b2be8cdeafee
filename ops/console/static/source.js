// Follows the server's stream of events and keeps the newest of each kind, for a page or for the worker of all pages.

const PATH = "/api/stream";
const KINDS = ["hello", "history", "point", "flow", "proof", "job"];
const POINTS_MAX = 90;
const REOPEN_MS = 3000;

/** Opens the stream and reports each event as (kind, document). It opens again for as long as the page lives; `link` says
 * whether it is open, lost, or out: the session has ended, and the stream does not open again by itself. */
export function follow(report) {
  const source = new EventSource(PATH);
  for (const kind of KINDS) source.addEventListener(kind, (event) => report(kind, JSON.parse(event.data)));
  source.onopen = () => report("link", "open");
  source.onerror = () => {
    report("link", "lost");
    // After a refusal, such as a 503, the browser does not try again by itself, nor does it say which one it was.
    if (source.readyState !== EventSource.CLOSED) return;
    isOut().then((out) => (out ? report("link", "out") : setTimeout(() => follow(report), REOPEN_MS)));
  };
}

function isOut() {
  return fetch("/api/session", { cache: "no-store" }).then((answer) => answer.status === 401, () => false);
}

/** Puts an event into `newest`, a Map from kind to document; each job has an entry of its own. */
export function remember(newest, kind, document) {
  if (kind === "point") {
    const points = [...(newest.get("history")?.points ?? []), document].slice(-POINTS_MAX);
    newest.set("history", { ...newest.get("history"), points });
    return "history";
  }
  if (kind === "job") {
    newest.set(`job ${document.id}`, document);
    return "jobs";
  }
  // The server tells all it remembers after a hello.
  if (kind === "hello") for (const key of [...newest.keys()]) if (key.startsWith("job ")) newest.delete(key);
  newest.set(kind, document);
  return kind;
}
