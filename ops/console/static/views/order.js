// One order: its stages as a waterfall, what each service did for it, and its records in the log.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { bytes, milliseconds, money } from "../format.js";
import { get } from "../http.js";
import { At, Problems, Refused, State, Table } from "../parts.js";
import { address } from "../route.js";
import { Figures } from "./flow.js";

const POLL_MS = 500;
const APPEARS_WITHIN_MS = 20_000;

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
        if (story.order?.settled_at) return;
      } catch (refusal) {
        if (refusal.name === "AbortError") return;
        // An order that was just accepted is in no database for a moment.
        const waits = refusal.status === 404 && Date.now() - since < APPEARS_WITHIN_MS;
        setError(waits ? undefined : refusal);
        if (refusal.status === 404 && !waits) return;
      }
      timer = setTimeout(read, POLL_MS);
    };
    read();
    return () => {
      gone.abort();
      clearTimeout(timer);
    };
  }, [id]);
  return [story, error];
}

const RESULTS = ["payment.completed", "payment.declined", "inventory.reserved", "inventory.rejected"];
const DECIDING = [...RESULTS, "order.cancel_requested", "order.deadline_passed"];
const OUTCOMES = ["order.confirmed", "order.rejected", "order.cancelled"];
const REVOKING = ["order.rejected", "order.cancelled"];

/** Since when a stage was on its way, in ms after the order was placed: since the last event that can have caused it. */
function beginning(stage, stages) {
  if (stage.event === "order.placed" || RESULTS.includes(stage.event)) return 0;
  const isRequest = stage.topic === "orders" && !OUTCOMES.includes(stage.event);
  if (isRequest) return stage.after_ms;
  const causes = OUTCOMES.includes(stage.event) ? DECIDING : REVOKING;
  return Math.max(0, ...stages.filter((other) => causes.includes(other.event) && other.after_ms <= stage.after_ms).map((other) => other.after_ms));
}

function Waterfall({ stages }) {
  const begins = stages.map((stage) => beginning(stage, stages));
  const total = Math.max(1, ...stages.map((stage) => stage.after_ms));
  return html`
    <${Table} label="Stages of the order" head=${["event", "after", "on its way", "record"]}>
      ${stages.map((stage, at) => html`
        <tr data-stage=${stage.event}><th scope="row">${stage.event}</th><td><span title=${new Date(stage.at).toISOString()}>${milliseconds(stage.after_ms)}</span></td>
          <td class="waterfall" aria-hidden="true"><span class=${stage.topic}
            style=${{ marginLeft: `${(98 * begins[at]) / total}%`, width: `${Math.max(1, (98 * (stage.after_ms - begins[at])) / total)}%` }}></span></td>
          <td><code>${stage.topic}/${stage.partition}@${stage.offset ?? "–"}</code></td></tr>`)}
    <//>`;
}

function Side({ title, none, children }) {
  return html`<section class="panel"><h2>${title}</h2>${none ? html`<p class="muted">${none}</p>` : children}</section>`;
}

function Payment({ payment, account }) {
  return html`<${Figures} figures=${[
    ["state", html`<${State} word=${payment.state} />${payment.reason && ` ${payment.reason}`}`],
    ["amount", money(payment.amount, payment.currency)],
    ["decided", html`<${At} at=${payment.decided_at} />`],
    ...(payment.revoked_at ? [["revoked", html`<${At} at=${payment.revoked_at} />`]] : []),
    ...(account ? [["balance now", money(account.balance, account.currency)]] : []),
  ]} />`;
}

function Reservation({ reservation }) {
  return html`
    <${Figures} figures=${[
      ["state", html`<${State} word=${reservation.state} />${reservation.reason && ` ${reservation.reason}`}`],
      ["decided", html`<${At} at=${reservation.decided_at} />`],
      ...(reservation.revoked_at ? [["revoked", html`<${At} at=${reservation.revoked_at} />`]] : []),
    ]} />
    <ul>${reservation.items.map((item) => html`<li>${item.quantity} × ${item.product_id}</li>`)}</ul>`;
}

function readable(event) {
  if (event.truncated) return event.text;
  try {
    return JSON.stringify(JSON.parse(event.text), null, 2);
  } catch {
    return event.text;
  }
}

function RawEvents({ id }) {
  const [answer, setAnswer] = useState();
  const [error, setError] = useState();
  const [loading, setLoading] = useState(false);
  const read = () => {
    setLoading(true);
    setError();
    get(`/api/orders/${encodeURIComponent(id)}/events`).then(setAnswer, setError).finally(() => setLoading(false));
  };
  return html`
    <section class="panel"><h2>Raw events</h2>
      <button type="button" class="quiet" onClick=${read} disabled=${loading}>${loading ? "Reading the log …" : answer ? "Read the log again" : "Read them from the log"}</button>
      <${Refused} error=${error} />
      ${answer?.events.map((event) => html`
        <h3><code>${event.topic}/${event.partition}@${event.offset}</code> <span class="muted">key ${event.key}, ${bytes(event.bytes)}, <${At} at=${event.at} /></span></h3>
        <pre tabindex="0" aria-label=${`Record ${event.topic}/${event.partition}@${event.offset}`}>${readable(event)}</pre>
        ${event.truncated && html`<p class="muted">The rest of it is left out.</p>`}`)}
      ${answer?.missing.map((text) => html`<p class="muted">${text}</p>`)}
    </section>`;
}

export function Order({ id }) {
  const [story, error] = useOrder(id);
  const order = story?.order;
  return html`
    <p><a href=${address("orders")}>All orders</a></p>
    <h1 tabindex="-1">Order <code>${id}</code></h1>
    <${Refused} error=${error} />
    <${Problems} problems=${story?.problems} />
    <p role="status">${order
      ? html`<${State} word=${order.status} />${order.reason && ` ${order.reason}`}${order.settled_at ? ", settled" : ", not settled yet"}`
      : !error && (story ? "The order database has no row of it yet." : "The log has it. Waiting for the services to read it …")}</p>
    ${story && html`
      ${order && html`<${Figures} figures=${[
        ["customer", html`<a href=${address("orders", { customer_id: order.customer_id })}>${order.customer_id}</a>`],
        ["amount", money(order.amount, order.currency)],
        ["placed", html`<${At} at=${order.placed_at} />`],
        ["settled", html`<${At} at=${order.settled_at} />`],
      ]} />
      <ul>${order.items.map((item) => html`<li>${item.quantity} × ${item.product_id} at ${money(item.unit_price, order.currency)}</li>`)}</ul>`}
      <section class="panel"><h2>Stages</h2><${Waterfall} stages=${story.stages} /></section>
      <div class="columns">
        <${Side} title="Payment" none=${!story.payment && "Payment has not decided yet."}><${Payment} payment=${story.payment} account=${story.account} /><//>
        <${Side} title="Reservation" none=${!story.reservation && "Inventory has not decided yet."}><${Reservation} reservation=${story.reservation} /><//>
        <${Side} title="Ledger" none=${!story.ledger.length && "No money has moved."}>
          <${Table} label="Ledger entries of the order" head=${["entry", "kind", "amount", "recorded"]}>
            ${story.ledger.map((entry) => html`<tr><th scope="row">${entry.entry_id}</th><td>${entry.kind}</td><td>${money(entry.kind === "capture" ? -entry.amount : entry.amount, entry.currency)}</td><td><${At} at=${entry.recorded_at} /></td></tr>`)}
          <//><//>
        ${story.parked.length > 0 && html`<${Side} title="Dead letters">
          <ul>${story.parked.map((event) => html`<li><${State} word=${event.state} /> <a href=${address("dead-letters", event.service, event.record)}>${event.service} ${event.record}</a> ${event.error}</li>`)}</ul><//>`}
      </div>
      ${order?.traceparent && html`<p class="muted">traceparent <code>${order.traceparent}</code></p>`}
      <${RawEvents} id=${id} />`}`;
}
