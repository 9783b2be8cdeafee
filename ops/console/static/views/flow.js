// The flow: what runs through the system now, where it waits, and how long it takes.

import { html } from "../vendor/htm-preact.js";
import { count, milliseconds, partitions, rate, seconds } from "../format.js";
import { State, Table } from "../parts.js";
import { useNewest } from "../stream.js";
import { Chart, LATENCY_LINES } from "./charts.js";
import { Picture } from "./picture.js";

export function Figures({ figures }) {
  return html`<dl class="figures">${figures.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function latency(kind) {
  return LATENCY_LINES.map((line) => ({ ...line, value: (point) => point[kind]?.[line.field] ?? null }));
}

function Latency({ latency }) {
  return html`
    <${Table} label="Latency of the last 15 minutes" head=${["step", "p50", "p95", "p99", "orders"]}>
      ${[["Accepted", latency.accept], ["Settled", latency.settle]].map(([name, of]) => html`
        <tr><th scope="row">${name}</th><td>${milliseconds(of.p50_ms)}</td><td>${milliseconds(of.p95_ms)}</td>
          <td>${milliseconds(of.p99_ms)}</td><td>${count(of.count)}</td></tr>`)}
    <//>`;
}

function Outcomes({ outcomes }) {
  const sorted = Object.entries(outcomes.counts).sort(([, a], [, b]) => b - a);
  if (sorted.length === 0) return html`<p class="muted">No orders in the last ${seconds(outcomes.window_s)}.</p>`;
  return html`
    <ul class="bars">${sorted.map(([outcome, orders]) => html`
      <li><span>${outcome}</span><span class="track" aria-hidden="true"><span style=${{ width: `${(100 * orders) / outcomes.orders}%` }}></span></span>
        <span>${count(orders)}</span></li>`)}</ul>
    <p class="muted">The newest ${count(outcomes.orders)} orders of the last ${seconds(outcomes.window_s)}.</p>`;
}

function Stopped({ stopped }) {
  const entries = Object.entries(stopped ?? {});
  if (entries.length === 0) return null;
  return html`<ul class="problems">${entries.map(([service, reason]) => html`
    <li><${State} kind="bad">${service} has stopped<//> ${reason}. To let it go on: <code>just dlq resume --service ${service} --why …</code></li>`)}</ul>`;
}

export function Instances({ instances }) {
  return html`
    <${Table} label="Instances" head=${["instance", "state", "partitions", "records", "a batch", "last batch"]}>
      ${instances.map((one) => html`
        <tr key=${one.name}><th scope="row">${one.name}</th>
          <td><${State} word=${one.state} /> ${[...(one.missing ?? []), ...(one.degraded ?? [])].map((text) => html`<span class="muted">${text} </span>`)}</td>
          <td>${one.partitions ? partitions(one.partitions) || "none" : "–"}</td>
          <td>${rate(one.records_s)}</td>
          <td>${one.records_per_batch == null ? "–" : `${count(Math.round(one.records_per_batch))} in ${milliseconds(one.batch_ms)}`}</td>
          <td>${one.last_batch_s == null ? "–" : `${seconds(one.last_batch_s)} ago`}</td></tr>`)}
    <//>`;
}

function Lag({ arrows }) {
  return html`
    <${Table} label="Lag by consumer group" head=${["group", "topic", "reads", "lag", "in time", "by partition"]}>
      ${arrows.map((arrow) => html`
        <tr><th scope="row">${arrow.group}</th><td>${arrow.topic}</td><td>${rate(arrow.out_s)}</td><td>${count(arrow.lag_records)}</td>
          <td>${seconds(arrow.lag_s)}</td>
          <td>${(arrow.partitions ?? []).map((each) => `${each.partition}: ${count(each.lag_records)}`).join(", ")}</td></tr>`)}
    <//>`;
}

export function Flow() {
  const flow = useNewest("flow");
  const points = useNewest("history")?.points ?? [];
  if (!flow) return html`<h1 tabindex="-1">Flow</h1><p>Waiting for the first figures.</p>`;
  return html`
    <h1 tabindex="-1">Flow</h1>
    <${Stopped} stopped=${flow.stopped} />
    <${Figures} figures=${[
      ["accepted", rate(flow.api.accepted_s)], ["refused", rate(flow.api.refused_s)], ["failed", rate(flow.api.failed_s)],
      ["being accepted", count(flow.api.in_flight)], ["waiting to be settled", count(flow.api.backlog)],
      ["parked", count(Object.values(flow.parked).reduce((sum, each) => sum + (each ?? 0), 0))],
    ]} />
    <section aria-label="Picture of the flow" class="panel"><${Picture} flow=${flow} /></section>
    <div class="columns">
      <section class="panel"><h2>Accepted within</h2><${Chart} label="Time until an order is accepted" points=${points} lines=${latency("accept")} unit=${milliseconds} /></section>
      <section class="panel"><h2>Settled within</h2><${Chart} label="Time until an order is settled" points=${points} lines=${latency("settle")} unit=${milliseconds} /></section>
      <section class="panel"><h2>Last 15 minutes</h2><${Latency} latency=${flow.latency} /></section>
      <section class="panel"><h2>Outcomes</h2><${Outcomes} outcomes=${flow.outcomes} /></section>
    </div>
    <section class="panel"><h2>Instances</h2><${Instances} instances=${flow.instances} /></section>
    <section class="panel"><h2>Lag</h2><${Lag} arrows=${flow.arrows} /></section>`;
}
