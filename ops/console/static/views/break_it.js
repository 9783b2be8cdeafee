// Break it: stop, kill or freeze parts of the stack, put load on it, and watch the lag grow and drain.

import { html, useState } from "../vendor/htm-preact.js";
import { count, seconds } from "../format.js";
import { post } from "../http.js";
import { Jobs, Refused, State } from "../parts.js";
import { useMay } from "../session.js";
import { started, useJobs, useNewest } from "../stream.js";
import { Chart } from "./charts.js";
import { Picture } from "./picture.js";
import { Statements } from "./proof.js";

const ACTS = {
  stop: "ends it in good order", start: "starts it again", kill: "ends it at once (SIGKILL)",
  freeze: "stops it where it stands (SIGSTOP); nothing answers", thaw: "lets it go on",
};
const LAG = [{ name: "records behind", colour: "--line-1", dash: [], value: (point) => point.lag_records ?? null }];
const LAG_S = [{ name: "behind", colour: "--line-2", dash: [], value: (point) => point.lag_s ?? null }];

function Target({ target, heading, service, instances, instancesMax, act }) {
  const [number, setNumber] = useState();
  const own = instances.filter((one) => one.service === target);
  const scale = (event) => {
    event.preventDefault();
    act({ act: "scale", target, count: Number(number ?? own.length) });
  };
  return html`
    <section class="target" aria-label=${target}>
      <h3>${heading}</h3>
      <p>${service ? own.map((one) => html`<${State} word=${one.state}>${one.name} ${one.state}<//> `) : null}</p>
      <div class="actions">
        ${Object.entries(ACTS).map(([name, title]) => html`
          <button type="button" class="quiet" title=${title} aria-label=${`${name} ${target}`} onClick=${() => act({ act: name, target })}>${name}</button>`)}
      </div>
      ${service && html`
        <form class="actions" onSubmit=${scale}>
          <label>instances <input type="number" min="1" max=${instancesMax} aria-label=${`Instances of ${target}`} value=${number ?? own.length}
            onInput=${(event) => setNumber(event.target.value)} /></label>
          <button class="quiet" aria-label=${`scale ${target}`}>scale</button>
        </form>`}
    </section>`;
}

export function BreakIt() {
  const hello = useNewest("hello");
  const flow = useNewest("flow");
  const points = useNewest("history")?.points ?? [];
  const loads = useJobs(["load"]).some((job) => job.state === "running");
  const mayAct = useMay("act");
  const [error, setError] = useState();
  const send = (path, body) => {
    setError();
    post(path, body).then(started, setError);
  };
  if (hello?.can_break && !mayAct) return html`<h1 tabindex="-1">Break it</h1><p>Only an operator may break things.</p>`;
  if (!hello?.can_break) {
    return html`<h1 tabindex="-1">Break it</h1><p>${hello
      ? `This is the ${hello.stack} stack. Only a stack that 'just up' started as processes of this machine can be broken from here.`
      : "Waiting for the server."}</p>`;
  }
  const kafka = hello.targets.includes("kafka-1") ? "kafka (all brokers)" : "kafka (the broker)";
  const instances = flow?.instances ?? [];
  const behind = Math.max(0, ...(flow?.arrows ?? []).map((arrow) => arrow.lag_records ?? 0));
  const behindS = Math.max(0, ...(flow?.arrows ?? []).map((arrow) => arrow.lag_s ?? 0));
  return html`
    <h1 tabindex="-1">Break it</h1>
    <p>Put load on the stack, take a part of it away, and watch: orders are still accepted, the lag grows, the statements stay green. Bring the part back, and the lag drains.</p>
    <${Refused} error=${error} />
    <div class="columns">
      <div>
        <section class="panel"><h2>Load</h2>
          <p>A shape takes one to two minutes. Break something meanwhile. A shape fails if its p95 or its share of errors is too high.</p>
          <div class="actions">
          ${hello.shapes.map((shape) => html`<button type="button" disabled=${loads} onClick=${() => send("/api/load", { shape })}>Run the ${shape} shape</button>`)}</div></section>
        <${Jobs} kinds=${["drill", "load"]} title="Drills and loads" limit=${4} />
        <section class="panel"><h2>Parts</h2>
          ${hello.targets.map((target) => html`<${Target} key=${target} target=${target} heading=${target === "kafka" ? kafka : target} service=${hello.services.includes(target)} instances=${instances}
            instancesMax=${hello.instances_max} act=${(body) => send("/api/break", body)} />`)}</section>
      </div>
      <div>
        ${flow && html`<section class="panel"><h2>Now</h2>
          <p>The slowest reader is <strong>${count(behind)} ${behind === 1 ? "record" : "records"}</strong> and <strong>${seconds(behindS)}</strong> behind.</p>
          <${Picture} flow=${flow} /></section>`}
        <section class="panel"><h2>Statements</h2><${Statements} /></section>
        <section class="panel"><h2>Lag in records</h2><${Chart} label="Lag in records" points=${points} lines=${LAG} unit=${count} whole /></section>
        <section class="panel"><h2>Lag in time</h2><${Chart} label="Lag in seconds" points=${points} lines=${LAG_S} unit=${seconds} /></section>
      </div>
    </div>`;
}
