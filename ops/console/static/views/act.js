// The dialog in which parked events are redriven or discarded: first a dry run, then the act. The server carries the act
// out, so closing the dialog or the tab stops nothing.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { count } from "../format.js";
import { get, post } from "../http.js";
import { Dialog, Job, Refused, State } from "../parts.js";
import { started, useJobs } from "../stream.js";
import { Windowed } from "../windowed.js";

const WORDS = {
  redrive: ["Redrive", "The service processes the events again, in their order, with all that is parked behind them."],
  discard: ["Discard", "The events are dropped for good. An order among them is decided as declined or rejected, with the reason discarded."],
};
const COLUMNS = [
  { title: "service", width: "6rem", cell: (result) => result.service },
  { title: "record", width: "minmax(9rem, 1fr)", cell: (result) => html`<code>${result.record}</code>` },
  { title: "result", width: "8rem", cell: (result) => html`<${State} word=${result.result} />` },
  { title: "events", width: "5rem", cell: (result) => count(result.count) },
  { title: "detail", width: "minmax(14rem, 3fr)", cell: (result) => html`<span title=${result.detail}>${result.detail}</span>` },
];

function Results({ label, results }) {
  return html`<${Windowed} label=${label} columns=${COLUMNS} rows=${results} rowKey=${(result) => `${result.service} ${result.record}`} />`;
}

function Outcome({ id, first }) {
  const job = useJobs(["act"]).find((each) => each.id === id) ?? first;
  const [results, setResults] = useState([]);
  const [error, setError] = useState();
  useEffect(() => {
    const gone = new AbortController();
    get(`/api/jobs/${encodeURIComponent(id)}`, gone.signal).then((answer) => setResults(answer.results ?? []),
      (refusal) => refusal.name !== "AbortError" && setError(refusal));
    return () => gone.abort();
  }, [job.state, job.done]);
  return html`<ul class="jobs"><${Job} job=${job} /></ul><${Refused} error=${error} /><${Results} label="Results" results=${results} />`;
}

/** `request`: `{act, events}` or `{act, filter}`. The act concerns what the dry run has shown, and nothing that came since. */
export function Act({ request, onClose }) {
  const [why, setWhy] = useState("");
  const [trial, setTrial] = useState();
  const [job, setJob] = useState();
  const [error, setError] = useState();
  const [waiting, setWaiting] = useState(false);
  const [title, text] = WORDS[request.act];
  const send = (body, take) => {
    setWaiting(true);
    setError();
    post("/api/dead-letters/acts", { ...body, why: why.trim() }).then(take, setError).finally(() => setWaiting(false));
  };
  const tryOut = () => send({ ...request, dry_run: true }, setTrial);
  const act = (event) => {
    event.preventDefault();
    const events = trial.results.map(({ service, record }) => ({ service, record }));
    send({ act: request.act, events, dry_run: false }, (job) => {
      started(job);
      setJob(job);
    });
  };
  const named = request.events ? `${count(request.events.length)} chosen` : "all that match the filter and are parked";
  return html`
    <${Dialog} title=${`${title}: ${named}`} onClose=${onClose}>
      ${job ? html`<${Outcome} id=${job.id} first=${job} />` : html`
        <form onSubmit=${act}>
          <p>${text}</p>
          <label class="field"><span>Why <small>required; it is recorded with the act</small></span>
            <textarea name="why" required maxlength="500" rows="2" value=${why} onInput=${(event) => setWhy(event.target.value)}></textarea></label>
          <div class="actions">
            <button type="button" class="quiet" disabled=${waiting} onClick=${tryOut}>Dry run: what would change?</button>
            <button class="danger" disabled=${waiting || !trial?.results.length || !why.trim()}>${title} now</button>
          </div>
          <p role="status">${trial
            ? `${count(trial.would_change)} events would be marked; ${count(trial.refused)} would be refused. Nothing has changed yet. What is parked from now on is left alone.`
            : `${title} now is possible after a dry run and with a reason.`}</p>
          <${Refused} error=${error} />
          ${trial && html`<${Results} label="What would change" results=${trial.results} />`}
        </form>`}
    <//>`;
}
