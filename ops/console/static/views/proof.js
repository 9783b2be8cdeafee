// The proof: the six statements as they stand, and the full proof on demand.

import { html, useState } from "../vendor/htm-preact.js";
import { count, seconds } from "../format.js";
import { post } from "../http.js";
import { Age, At, Jobs, Refused, State, Table } from "../parts.js";
import { useMay } from "../session.js";
import { started, useJobs, useProof } from "../stream.js";

const verdict = (statement) => (statement.violations > 0 ? "violated" : statement.unproven > 0 ? "unproven" : "proved");

function Offenders({ offenders }) {
  if (!offenders?.length) return null;
  return html`
    <${Table} label="Violations" head=${["statement", "of", "what is wrong"]}>
      ${offenders.map((each) => html`<tr><td>${each.statement}</td><th scope="row">${each.subject}</th><td>${each.problem}</td></tr>`)}
    <//>`;
}

/** The six statements in one line each, for the other views. */
export function Statements() {
  const proof = useProof();
  if (!proof) return html`<p class="muted">No proof yet.</p>`;
  return html`<ol class="statements">${proof.statements.map((each) => html`<li><${State} word=${verdict(each)} /> ${each.text}</li>`)}</ol>`;
}

function Standing({ proof }) {
  return html`
    <p><${State} word=${proof.verdict} /> Round ${count(proof.rounds)} took ${seconds(proof.took_s)} and ended <${Age} at=${proof.at} />.</p>
    <${Table} label="The six statements" head=${["no.", "statement", "checked", "violations", "unproven", "last proved"]}>
      ${proof.statements.map((each) => html`
        <tr data-statement=${each.statement}><td>${each.statement}</td>
          <th scope="row">${each.text} <${State} word=${verdict(each)} />
            ${each.reasons.map((reason) => html`<span class="muted"> ${reason}</span>`)}
            <p class="light">Checked every ${seconds(each.every_s).replace(" ", "\u00a0")}. ${each.light}</p></th>
          <td>${count(each.checked)} ${each.counted}</td><td>${count(each.violations)}</td><td>${count(each.unproven)}</td>
          <td><${Age} at=${each.proved_at} /></td></tr>`)}
    <//>
    <${Offenders} offenders=${proof.offenders} />
    <p class="muted">What it finds wrong is shown until it is right again. The console remembers it in memory only: after a
      restart of the console, the full proof finds it.</p>`;
}

function Full({ full, texts }) {
  return html`
    <p><${State} word=${full.verdict} /> ${count(full.records)} records of the log in ${seconds(full.took_s)}, at <${At} at=${full.at} />.</p>
    <${Table} label="The last full proof" head=${["no.", "statement", "checked", "violations", "unproven"]}>
      ${full.statements.map((each) => html`
        <tr data-statement=${each.statement}><td>${each.statement}</td><th scope="row">${texts.get(each.statement)}
            ${(each.reasons ?? []).map((reason) => html`<span class="muted"> ${reason}</span>`)}</th>
          <td>${count(each.checked)}</td><td>${count(each.violations)}</td><td>${count(each.unproven)}</td></tr>`)}
    <//>
    <${Offenders} offenders=${full.offenders} />
    ${(full.notes ?? []).map((note) => html`<p class="muted">${note}</p>`)}`;
}

export function Proof() {
  const proof = useProof();
  const running = useJobs(["verify"]).some((job) => job.state === "running");
  const mayAct = useMay("act");
  const [error, setError] = useState();
  const prove = () => {
    setError();
    post("/api/verify", {}).then(started, setError);
  };
  const texts = new Map((proof?.statements ?? []).map((each) => [each.statement, each.text]));
  return html`
    <h1 tabindex="-1">Proof</h1>
    <section class="panel"><h2>Standing proof</h2>
      <p>A light form of the proof, which never ends and costs little. Below each statement stands what it checks, and what only the full proof does.</p>
      ${proof ? html`<${Standing} proof=${proof} />` : html`<p>Waiting for the first round.</p>`}
    </section>
    <section class="panel"><h2>Full proof</h2>
      <p>It reads the whole log and all three databases, as <code>just verify</code> does. The system keeps running.</p>
      ${mayAct
        ? html`<button type="button" onClick=${prove} disabled=${running}>${running ? "A full proof is running" : "Prove everything now"}</button>`
        : html`<p class="muted">An operator can start it.</p>`}
      <${Refused} error=${error} />
      ${proof?.full && html`<${Full} full=${proof.full} texts=${texts} />`}
    </section>
    <${Jobs} kinds=${["verify"]} title="Full proofs" limit=${3} />`;
}
