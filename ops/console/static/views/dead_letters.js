// Dead letters: what is parked, and what is to become of it.

import { html, useMemo, useState } from "../vendor/htm-preact.js";
import { bytes, count, fieldTime, time, timeField } from "../format.js";
import { usePages } from "../pages.js";
import { Choice, Field, Jobs, Problems, Refused, State, values } from "../parts.js";
import { address, go, keepFilter } from "../route.js";
import { useMay } from "../session.js";
import { Windowed } from "../windowed.js";
import { Act } from "./act.js";

const SERVICES = [["", "any"], ["order"], ["payment"], ["inventory"]];
const TOPICS = [["", "any"], ["orders"], ["outcomes"], ["payments"], ["inventory"]];
const STATES = [["", "not done"], ["parked"], ["redrive"], ["discard"], ["decided"], ["done"]];
const ROLES = [["", "both"], ["true", "roots"], ["false", "followers"]];
const nameOf = (event) => `${event.service} ${event.record}`;

function Filters({ filter }) {
  const apply = (event) => {
    event.preventDefault();
    const given = values(event.target);
    const chosen = { ...given, since: fieldTime(given.since), until: fieldTime(given.until) };
    keepFilter("dead-letters", JSON.parse(JSON.stringify(chosen)));
    go("dead-letters", chosen);
  };
  const clear = () => {
    keepFilter("dead-letters", {});
    go("dead-letters");
  };
  return html`
    <form class="fields" aria-label="Filter dead letters" key=${JSON.stringify(filter)} onSubmit=${apply}>
      <${Choice} label="Service" name="service" value=${filter.service} options=${SERVICES} />
      <${Choice} label="State" name="state" value=${filter.state} options=${STATES} />
      <${Choice} label="Topic" name="topic" value=${filter.topic} options=${TOPICS} />
      <${Choice} label="Roots or followers" name="root" value=${filter.root} options=${ROLES} />
      <${Field} label="Customer" name="customer" value=${filter.customer} />
      <${Field} label="Error contains" name="error" value=${filter.error} />
      <${Field} label="Parked since" name="since" type="datetime-local" step="1" value=${timeField(filter.since)} />
      <${Field} label="Parked until" name="until" type="datetime-local" step="1" value=${timeField(filter.until)} />
      <div class="actions"><button>Filter</button><button type="button" class="quiet" onClick=${clear}>Clear</button></div>
    </form>`;
}

function columns(chosen, toggle) {
  return [
    { title: "choose", width: "4.2rem", cell: (event) => html`<input type="checkbox" aria-label=${`Choose ${nameOf(event)}`} checked=${chosen.has(nameOf(event))}
      disabled=${event.state !== "parked"} onChange=${() => toggle(event)} />` },
    { title: "record", width: "minmax(8rem, 1fr)", cell: (event) => html`<a href=${address("dead-letters", event.service, event.record)}><code>${event.record}</code></a>` },
    { title: "service", width: "5rem", cell: (event) => event.service },
    { title: "state", width: "6rem", cell: (event) => html`<${State} word=${event.state} />` },
    { title: "error", width: "minmax(11rem, 3fr)", cell: (event) => html`<span title=${event.error}>${event.error}</span>` },
    { title: "type", width: "minmax(8.5rem, 1fr)", cell: (event) => event.type || "not an event" },
    { title: "customer", width: "minmax(7rem, 1fr)", cell: (event) => event.customer ?? "–" },
    { title: "as", width: "4.5rem", cell: (event) => (event.root ? "root" : "follower") },
    { title: "parked", width: "9.5rem", cell: (event) => time(event.parked_at) },
    { title: "bytes", width: "5rem", cell: (event) => bytes(event.bytes) },
  ];
}

export function DeadLetters({ filter }) {
  const { rows, page, loading, error, onEnd, refresh } = usePages("/api/dead-letters", filter, (page) => page.events);
  const [chosen, setChosen] = useState(new Map());
  const [acting, setActing] = useState();
  const mayAct = useMay("act");
  const toggle = (event) => setChosen((chosen) => {
    const changed = new Map(chosen);
    if (!changed.delete(nameOf(event))) changed.set(nameOf(event), { service: event.service, record: event.record });
    return changed;
  });
  const shown = useMemo(() => columns(chosen, toggle).slice(mayAct ? 0 : 1), [chosen, mayAct]);
  const parked = useMemo(() => rows.filter((event) => event.state === "parked"), [rows]);
  const { state, ...matching } = filter;
  const times = Object.fromEntries(["since", "until"].filter((name) => matching[name]).map((name) => [name, Number(matching[name])]));
  const byFilter = { ...matching, ...(matching.root && { root: matching.root === "true" }), ...times };
  const someMatch = page?.total > 0 && (!state || state === "parked");
  const end = () => {
    setActing();
    setChosen(new Map());
    refresh();
  };
  return html`
    <h1 tabindex="-1">Dead letters</h1>
    <${Problems} problems=${page?.problems} />
    ${page?.stops?.map((stop) => html`<p class="problems"><${State} kind="bad">${stop.service} has stopped<//> ${stop.reason}.
      To let it go on: <code>just dlq resume --service ${stop.service} --why …</code></p>`)}
    <section class="panel"><h2>Filter</h2><${Filters} filter=${filter} /></section>
    <section class="panel"><h2>Parked events</h2>
      <${Refused} error=${error} />
      <p role="status" class="muted">${loading ? "Reading …" : `Events: ${count(page?.total ?? rows.length)} match, ${count(rows.length)} loaded${mayAct ? `, ${count(chosen.size)} chosen` : ""}.`}</p>
      <div class="actions">
        ${mayAct && ["redrive", "discard"].map((act) => html`
          <button type="button" disabled=${chosen.size === 0} onClick=${() => setActing({ act, events: [...chosen.values()] })}>${act === "redrive" ? "Redrive" : "Discard"} the chosen …</button>
          <button type="button" class="quiet" disabled=${!someMatch} onClick=${() => setActing({ act, filter: byFilter })}>${act === "redrive" ? "Redrive" : "Discard"} all that match …</button>`)}
        ${mayAct && html`
          <button type="button" class="quiet" disabled=${parked.length === 0}
            onClick=${() => setChosen(new Map(parked.map((event) => [nameOf(event), { service: event.service, record: event.record }])))}>Choose all loaded</button>
          <button type="button" class="quiet" disabled=${chosen.size === 0} onClick=${() => setChosen(new Map())}>Choose none</button>`}
        <button type="button" class="quiet" onClick=${refresh}>Refresh</button>
      </div>
      <${Windowed} label="Dead letters" columns=${shown} rows=${rows} rowKey=${nameOf} onEnd=${onEnd} />
    </section>
    <${Jobs} kinds=${["act"]} title="Acts" />
    ${acting && html`<${Act} request=${acting} onClose=${end} />`}`;
}
