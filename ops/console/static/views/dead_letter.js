// One parked event: its bytes, and what was done about it.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { bytes, count } from "../format.js";
import { get } from "../http.js";
import { At, Refused, State, Table } from "../parts.js";
import { address, lastFilter } from "../route.js";
import { useMay } from "../session.js";
import { Act } from "./act.js";
import { Figures } from "./flow.js";

export function DeadLetter({ service, record }) {
  const mayAct = useMay("act");
  const [event, setEvent] = useState();
  const [error, setError] = useState();
  const [acting, setActing] = useState();
  const [round, setRound] = useState(0);
  useEffect(() => {
    const gone = new AbortController();
    get(`/api/dead-letters/${encodeURIComponent(service)}/${encodeURIComponent(record)}`, gone.signal).then(setEvent,
      (refusal) => refusal.name !== "AbortError" && setError(refusal));
    return () => gone.abort();
  }, [round]);
  const act = (name) => setActing({ act: name, events: [{ service, record }] });
  const end = () => {
    setActing();
    setRound((round) => round + 1);
  };
  return html`
    <p><a href=${address("dead-letters", lastFilter("dead-letters"))}>All dead letters</a></p>
    <h1 tabindex="-1">Dead letter <code>${record}</code> of ${service}</h1>
    <${Refused} error=${error} />
    ${event && html`
      <p><${State} word=${event.state} /> ${event.error}</p>
      <${Figures} figures=${[
        ["type", event.type || "not an event"],
        ["key", event.key ?? "–"],
        ["as", event.root ? "root" : "follower"],
        ["attempts", count(event.attempts)],
        ["in the log since", html`<${At} at=${event.record_at} />`],
        ["parked", html`<${At} at=${event.parked_at} />`],
      ]} />
      ${mayAct && html`
        <div class="actions">
          <button type="button" disabled=${event.state !== "parked"} onClick=${() => act("redrive")}>Redrive …</button>
          <button type="button" disabled=${event.state !== "parked"} onClick=${() => act("discard")}>Discard …</button>
        </div>`}
      <section class="panel"><h2>Bytes</h2>
        <p class="muted">${bytes(event.bytes)}; what is not text is escaped${event.truncated ? "; the rest is left out" : ""}.</p>
        <pre tabindex="0" aria-label="Bytes of the record">${event.text}</pre></section>
      <section class="panel"><h2>Acts</h2>
        ${event.acts.length === 0 ? html`<p class="muted">Nobody has acted on it.</p>` : html`
          <${Table} label="Acts" head=${["act", "by", "at", "why"]}>
            ${event.acts.map((each) => html`<tr><th scope="row">${each.act}</th><td>${each.actor}</td><td><${At} at=${each.acted_at} /></td><td>${each.why}</td></tr>`)}
          <//>`}</section>`}
    ${acting && html`<${Act} request=${acting} onClose=${end} />`}`;
}
