// One order: its stages as a waterfall, what each service did for it, and its records in the log.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { bytes, exactTime, milliseconds, money } from "../format.js";
import { get } from "../http.js";
import { At, Problems, Refused, State, Table } from "../parts.js";
import { address } from "../route.js";
import { Figures } from "./flow.js";

const POLL_MS = 500;
const POLL_MS_MAX = 5_000;
const APPEARS_WITHIN_MS = 20_000;

/** How long to wait before the next reading: twice a second at first. A tab that is left open with an order that waits for hours,
 * or that nobody sees, must not keep the databases busy. */
function pause(since) {
  return document.hidden ? POLL_MS_MAX : Math.min(POLL_MS_MAX, POLL_MS + (Date.now() - since) / 20);
}

/** The order's story, read again until it is settled. */
function useOrder(id) {
  const [story, setStory] = useState();
  const [error, setError] = useState();
  useEffect(() => {
    const gone = new AbortController();
    const since = Date.now();
    let timer;
    const read = async () => {
      try {
        const story = await get(`/api/orders/${encodeURIComponent(id)}`, gone.signal);
        setStory(story);
        setError();
        if (story.settled_at) return;
      } catch (refusal) {
        if (refusal.name === "AbortError") return;
        // An order that was just accepted is in no database for a moment.
        const waits = refusal.status === 404 && Date.now() - since < APPEARS_WITHIN_MS;
        setError(waits ? undefined : refusal);
        if (refusal.status === 404 && !waits) return;
      }
      timer = setTimeout(read, pause(since));
    };
    read();
    return () => {
      gone.abort();
      clearTimeout(timer);
    };
  }, [id]);
  return [story, error];
}

/** What there is to say about a stage besides its record. */
function remarks(stage) {
  return [
    stage.repeat && "published again",
    stage.in_log === false && (stage.offset === null ? "stored, not found in the log" : "not in the log any more"),
    stage.unread_by.length > 0 && `not yet read by ${stage.unread_by.join(", ")}`,
  ].filter(Boolean).join("; ");
}

/** Each stage as a bar, from the event that caused it to its own. */
function Waterfall({ stages }) {
  const first = Math.min(...stages.map((stage) => stage.at));
  const total = Math.max(1, ...stages.map((stage) => stage.at - first));
  return html`
    <${Table} label="Stages of the order" look="stages" head=${["event", "after", "on its way", "record"]}>
      ${stages.map((stage) => html`
        <tr data-stage=${stage.event}><th scope="row">${stage.event} <small>${remarks(stage)}</small></th>
          <td class="figure"><span title=${exactTime(stage.at)}>${milliseconds(stage.after_ms)}</span></td>
          <td class="waterfall"><div><span class=${stage.topic} aria-hidden="true"
            style=${{ marginLeft: `${(100 * (stage.at - first - (stage.took_ms ?? 0))) / total}%`, width: `${(100 * (stage.took_ms ?? 0)) / total}%` }}></span>
            ${stage.took_ms != null && html`<small>${milliseconds(stage.took_ms)}</small>`}</div></td>
          <td><code>${stage.topic}/${stage.partition}@${stage.offset ?? "–"}</code></td></tr>`)}
    <//>`;
}

function Side({ title, none, children }) {
  return html`<section class="panel"><h2>${title}</h2>${none ? html`<p class="muted">${none}</p>` : children}</section>`;
}

function Payment({ payment }) {
  return html`<${Figures} figures=${[
    ["state", html`<${State} word=${payment.state} />${payment.reason && ` ${payment.reason}`}`],
    ["amount", money(payment.amount, payment.currency)],
    ["decided", html`<${At} at=${payment.decided_at} />`],
    ...(payment.revoked_at ? [["revoked", html`<${At} at=${payment.revoked_at} />`]] : []),
    ["balance now", money(payment.balance, payment.currency)],
  ]} />`;
}

function Reservation({ reservation, movements }) {
  return html`
    <${Figures} figures=${[
      ["state", html`<${State} word=${reservation.state} />${reservation.reason && ` ${reservation.reason}`}`],
      ["decided", html`<${At} at=${reservation.decided_at} />`],
      ...(reservation.revoked_at ? [["revoked", html`<${At} at=${reservation.revoked_at} />`]] : []),
    ]} />
    <ul>${reservation.items.map((item) => html`<li>${item.quantity} × ${item.product_id}</li>`)}
      ${movements.map((one) => html`<li class="muted">movement ${one.movement_id}: ${one.kind} ${one.quantity} × ${one.product_id}, <${At} at=${one.recorded_at} /></li>`)}</ul>`;
}

function readable(event) {
  if (event.truncated) return event.text;
  try {
    return JSON.stringify(JSON.parse(event.text), null, 2);
  } catch {
    return event.text;
  }
}

/** Reads the records of the order. The log knows more of the story than the databases: `onRead` takes the whole of it. */
function RawEvents({ id, answer, onRead }) {
  const [error, setError] = useState();
  const [loading, setLoading] = useState(false);
  const read = () => {
    setLoading(true);
    setError();
    get(`/api/orders/${encodeURIComponent(id)}/events`).then(onRead, setError).finally(() => setLoading(false));
  };
  return html`
    <section class="panel"><h2>Raw events</h2>
      <button type="button" class="quiet" onClick=${read} disabled=${loading}>${loading ? "Reading the log …" : answer ? "Read the log again" : "Read them from the log"}</button>
      <${Refused} error=${error} />
      ${answer?.events.map((event) => html`
        <h3><code>${event.topic}/${event.partition}@${event.offset}</code> <span class="muted">key ${event.key}, ${bytes(event.bytes)}, <${At} at=${event.at} /></span></h3>
        <pre tabindex="0" aria-label=${`Record ${event.topic}/${event.partition}@${event.offset}`}>${readable(event)}</pre>
        ${event.truncated && html`<p class="muted">The rest of it is left out.</p>`}`)}
    </section>`;
}

export function Order({ id }) {
  const [polled, error] = useOrder(id);
  const [read, setRead] = useState();
  const story = polled?.settled_at && read ? read.story : polled;
  return html`
    <p><a href=${address("orders")}>All orders</a></p>
    <h1 tabindex="-1">Order <code>${id}</code></h1>
    <${Refused} error=${error} />
    <${Problems} problems=${story?.unread} />
    <p role="status">${story?.status
      ? html`<${State} word=${story.status} />${story.reason && ` ${story.reason}`}${story.settled_at ? ", settled" : ", not settled yet"}`
      : !error && (story ? "The order database has no row of it yet." : "The log has it. Waiting for the services to read it …")}</p>
    ${story && html`
      ${story.customer_id && html`<${Figures} figures=${[
        ["customer", html`<a href=${address("orders", { customer_id: story.customer_id })}>${story.customer_id}</a>`],
        ["amount", money(story.amount, story.currency)],
        ["placed", html`<${At} at=${story.placed_at} />`],
        ["settled", html`<${At} at=${story.settled_at} />`],
        ...(story.idempotency_key ? [["idempotency key", html`<code>${story.idempotency_key}</code>`]] : []),
      ]} />`}
      <ul>${story.items.map((item) => html`<li>${item.quantity} × ${item.product_id} at ${money(item.unit_price, story.currency)}</li>`)}</ul>
      <section class="panel"><h2>Stages</h2><${Waterfall} stages=${story.stages} /></section>
      <div class="columns">
        <${Side} title="Payment" none=${!story.payment && "Payment has not decided yet."}><${Payment} payment=${story.payment} /><//>
        <${Side} title="Reservation" none=${!story.reservation && "Inventory has not decided yet."}><${Reservation} reservation=${story.reservation} movements=${story.movements} /><//>
        <${Side} title="Ledger" none=${!story.ledger.length && "No money has moved."}>
          <${Table} label="Ledger entries of the order" head=${["entry", "kind", "amount", "recorded"]}>
            ${story.ledger.map((entry) => html`<tr><th scope="row">${entry.entry_id}</th><td>${entry.kind}</td><td>${money(entry.kind === "capture" ? -entry.amount : entry.amount, entry.currency)}</td><td><${At} at=${entry.recorded_at} /></td></tr>`)}
          <//><//>
        ${story.parked.length > 0 && html`<${Side} title="Dead letters">
          <ul>${story.parked.map((event) => html`<li><${State} word=${event.state} /> <a href=${address("dead-letters", event.service, event.record)}>${event.service} ${event.record}</a> ${event.error}</li>`)}</ul><//>`}
      </div>
      <p class="muted">trace <code>${story.trace_id}</code>${story.caller_span_id && html`, begun by the caller's span <code>${story.caller_span_id}</code>`};
        in a terminal: <code>just trace ${id}</code></p>
      <${RawEvents} id=${id} answer=${read} onRead=${setRead} />`}`;
}
