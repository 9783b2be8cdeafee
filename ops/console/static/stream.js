// What the server last said, for the views. A hidden tab keeps up, but draws nothing until it is seen again.

import { useEffect, useReducer } from "./vendor/htm-preact.js";
import { seconds } from "./format.js";
import { sessionEnded } from "./session.js";
import { follow, remember } from "./source.js";

const PROOF_SILENT_S = 120;

const newest = new Map();
const listeners = new Map();
const waiting = new Set();

function notify(name) {
  if (document.hidden) waiting.add(name);
  else for (const redraw of listeners.get(name) ?? []) redraw();
}

function take(kind, document) {
  if (kind === "link" && document === "out") sessionEnded();
  notify(remember(newest, kind, document));
}

let worker;

/** Starts to follow the stream, for a session that has begun: in the worker that all tabs share, or here when the browser
 * has none. */
export function connect() {
  if (typeof SharedWorker === "undefined") {
    follow(take);
    return;
  }
  if (!worker) {
    worker = new SharedWorker("/static/stream_worker.js", { type: "module", name: "tandem" });
    worker.onerror = () => follow(take);
    worker.port.onmessage = ({ data: [kind, document] }) => take(kind, document);
    addEventListener("pagehide", () => worker.port.postMessage("goodbye"));
    addEventListener("pageshow", (event) => event.persisted && worker.port.postMessage("hello"));
  }
  worker.port.postMessage("hello");
}

document.addEventListener("visibilitychange", () => {
  const names = [...waiting];
  waiting.clear();
  for (const name of names) notify(name);
});

function useRedraw(name) {
  const [, redraw] = useReducer((count) => count + 1, 0);
  useEffect(() => {
    if (!listeners.has(name)) listeners.set(name, new Set());
    listeners.get(name).add(redraw);
    redraw(); // something may have come since the first drawing
    return () => listeners.get(name).delete(redraw);
  }, [name]);
}

/** The newest document of a kind (hello, flow, history, proof, link), or undefined; the component is drawn again with each. */
export function useNewest(kind) {
  useRedraw(kind);
  return newest.get(kind);
}

/** The newest proof. It proves nothing when no round has ended for long: its thread may wait for a database that hangs. */
export function useProof() {
  const proof = useNewest("proof");
  const silent_s = (useNewest("flow")?.at - proof?.at) / 1000; // both by the server's clock
  if (!(silent_s > PROOF_SILENT_S)) return proof;
  const reasons = [`No round has ended for ${seconds(silent_s)}.`];
  const statements = proof.statements.map((each) => ({ ...each, unproven: Math.max(1, each.unproven), reasons }));
  return { ...proof, verdict: proof.verdict === "violated" ? "violated" : "unproven", statements };
}

/** All jobs of these kinds, newest first. */
export function useJobs(kinds) {
  useRedraw("jobs");
  const jobs = [...newest].filter(([key, job]) => key.startsWith("job ") && kinds.includes(job.kind)).map(([, job]) => job);
  return jobs.sort((a, b) => b.started_at - a.started_at);
}

/** Puts a job into its place at once, without waiting for the stream. */
export function started(job) {
  take("job", job);
}
