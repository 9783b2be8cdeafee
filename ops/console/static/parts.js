// What several views are made of.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/htm-preact.js";
import { ago, count, exactTime, seconds, time } from "./format.js";
import { post } from "./http.js";
import { useMay } from "./session.js";
import { started, useJobs } from "./stream.js";

const GLYPHS = { good: "✓", bad: "✕", warn: "!", wait: "…", off: "○" };
const KIND_OF = {
  ready: "good", degraded: "warn", unready: "bad", down: "bad",
  proved: "good", violated: "bad", unproven: "warn",
  pending: "wait", confirmed: "good", rejected: "bad", cancelled: "off",
  running: "wait", done: "good", failed: "bad", stopped: "off",
  completed: "good", declined: "bad", refunded: "off", void: "off", reserved: "good", released: "off",
  parked: "warn", redrive: "wait", discard: "wait", decided: "wait",
  marked: "good", unchanged: "off", refused: "bad",
};

/** A word with a sign and a colour: none of them alone says it. */
export function State({ word, kind, children }) {
  const as = kind ?? KIND_OF[word] ?? "off";
  return html`<span class="state ${as}"><span class="glyph" aria-hidden="true">${GLYPHS[as]}</span><span>${children ?? word}</span></span>`;
}

export function Refused({ error }) {
  if (!error) return null;
  return html`
    <div class="refused" role="alert">
      <p>${error.message}</p>
      ${error.errors?.length > 0 && html`<ul>${error.errors.map((each) => html`<li><code>${each.pointer}</code> ${each.detail}</li>`)}</ul>`}
    </div>`;
}

/** Sources that cannot be read now, by name. */
export function Problems({ problems }) {
  const entries = Object.entries(problems ?? {});
  if (entries.length === 0) return null;
  return html`<ul class="problems">${entries.map(([source, text]) => html`<li><${State} kind="warn">${source}<//> ${text}</li>`)}</ul>`;
}

export function At({ at }) {
  return html`<time datetime=${exactTime(at)} title=${exactTime(at)}>${time(at)}</time>`;
}

/** How long ago something was; counts on by itself. */
export function Age({ at }) {
  const [, redraw] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && redraw((n) => n + 1), 1000);
    return () => clearInterval(timer);
  }, []);
  return html`<span>${ago(at)}</span>`;
}

/** `value` is what it begins with: what somebody types stays, whatever is drawn again around it. */
export function Field({ label, name, hint, value, ...input }) {
  return html`
    <label class="field"><span>${label}${hint && html` <small>${hint}</small>`}</span><input name=${name} autocomplete="off" defaultValue=${value} ...${input} /></label>`;
}

export function Choice({ label, name, value, options, ...select }) {
  return html`
    <label class="field"><span>${label}</span>
      <select name=${name} ...${select}>
        ${options.map(([option, text]) => html`<option value=${option} selected=${option === (value ?? "")}>${text ?? option}</option>`)}
      </select>
    </label>`;
}

/** The fields of a form that have a value. */
export function values(form) {
  return Object.fromEntries([...new FormData(form)].filter(([, value]) => value.trim() !== "").map(([name, value]) => [name, value.trim()]));
}

/** A table that scrolls sideways when it is too wide. */
export function Table({ label, head, look, children }) {
  return html`
    <div class="wide" role="region" aria-label=${label} tabindex="0">
      <table aria-label=${label} class=${look}>
        <thead><tr>${head.map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>
        <tbody>${children}</tbody>
      </table>
    </div>`;
}

/** A modal dialog; Escape and the closing button call `onClose`. */
export function Dialog({ title, onClose, children }) {
  const dialog = useRef();
  useLayoutEffect(() => {
    const before = document.activeElement;
    dialog.current.showModal();
    return () => before?.focus?.();
  }, []);
  return html`
    <dialog ref=${dialog} aria-labelledby="dialog-title" onClose=${onClose}>
      <header><h2 id="dialog-title">${title}</h2>
        <button type="button" class="quiet" onClick=${() => dialog.current.close()}>Close</button></header>
      ${children}
    </dialog>`;
}

function Progress({ job }) {
  if (job.state !== "running") return null;
  const label = `progress of ${job.title}`;
  if (job.total) return html`<progress aria-label=${label} value=${job.done} max=${job.total}></progress> ${count(job.done)} of ${count(job.total)}`;
  if (!job.expected_s) return html`<progress aria-label=${label}></progress>`;
  const spent = Math.max(0, (Date.now() - job.started_at) / 1000);
  return html`<progress aria-label=${label} value=${Math.min(spent, job.expected_s)} max=${job.expected_s}></progress>
    ${" "}${seconds(spent)} of about ${seconds(job.expected_s)}`;
}

export function Job({ job, children }) {
  const mayAct = useMay("act");
  const [error, setError] = useState();
  const stop = () => post(`/api/jobs/${encodeURIComponent(job.id)}/stop`, {}).then(started, setError);
  return html`
    <li class="job">
      <div class="row"><${State} word=${job.state} /> <strong>${job.title}</strong>
        <span class="muted"><${Age} at=${job.ended_at ?? job.started_at} /></span>
        ${mayAct && job.state === "running" && job.can_stop && html`<button type="button" class="quiet" onClick=${stop}>Stop ${job.title}</button>`}</div>
      <div class="row"><${Progress} job=${job} /></div>
      ${job.note && html`<p class="muted">${job.note}</p>`}
      ${job.output?.length > 0 && html`<details><summary>Output of ${job.title}</summary><pre tabindex="0">${job.output.join("\n")}</pre></details>`}
      <${Refused} error=${error} />
      ${children}
    </li>`;
}

export function Jobs({ kinds, title, limit = 5 }) {
  const jobs = useJobs(kinds).slice(0, limit);
  const [latest] = jobs;
  return html`
    <p class="unseen" role="status">${latest && `${latest.title}: ${latest.state}`}</p>
    ${latest && html`<section class="panel" aria-label=${title}><h2>${title}</h2>
      <ul class="jobs">${jobs.map((job) => html`<${Job} key=${job.id} job=${job} />`)}</ul></section>`}`;
}
