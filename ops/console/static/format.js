// Numbers and times as a person reads them. null and undefined are not known: "–".

const NONE = "–";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 }); // a backlog is an estimate, and may be 44.5
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-CA", { year: "numeric", month: "2-digit", day: "2-digit" });
const currencies = new Map();

const known = (value) => value !== null && value !== undefined;

export const count = (value) => (known(value) ? whole.format(value) : NONE);

export const rate = (value) => (known(value) ? `${value < 100 ? short.format(value) : whole.format(Math.round(value))}/s` : NONE);

export function seconds(value) {
  if (!known(value)) return NONE;
  if (value < 10) return `${short.format(value)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return value < 172800 ? `${Math.round(value / 3600)} h` : `${Math.round(value / 86400)} d`;
}

export function milliseconds(value) {
  if (!known(value)) return NONE;
  return value < 10000 ? `${value < 100 ? short.format(value) : whole.format(Math.round(value))} ms` : seconds(value / 1000);
}

export function bytes(value) {
  return value < 1024 ? `${value} B` : `${short.format(value / 1024)} KiB`;
}

export function time(at) {
  if (!known(at)) return NONE;
  const date = new Date(at);
  return day.format(date) === day.format(new Date()) ? clock.format(date) : `${day.format(date)} ${clock.format(date)}`;
}

export function exactTime(at) {
  return known(at) ? new Date(at).toISOString() : NONE;
}

export const ago = (at) => (known(at) ? `${seconds(Math.max(0, (Date.now() - at) / 1000))} ago` : "never");

/** An amount of minor units in its currency. */
export function money(amount, currency) {
  if (!known(amount)) return NONE;
  if (!currency) return whole.format(amount);
  if (!currencies.has(currency)) currencies.set(currency, new Intl.NumberFormat("en", { style: "currency", currency }));
  const format = currencies.get(currency);
  return format.format(amount / 10 ** format.resolvedOptions().maximumFractionDigits);
}

/** `orders/0`, `orders/1`, `orders/2`, `payments/0` as "orders 0-2, payments 0". */
export function partitions(names) {
  const topics = new Map();
  for (const name of names) {
    const [topic, partition] = name.split("/");
    topics.set(topic, [...(topics.get(topic) ?? []), Number(partition)].sort((a, b) => a - b));
  }
  const ranges = (numbers) => numbers.reduce((runs, number) => {
    const run = runs.at(-1);
    if (run && number === run[1] + 1) run[1] = number;
    else runs.push([number, number]);
    return runs;
  }, []).map(([first, last]) => (first === last ? first : `${first}-${last}`));
  return [...topics].map(([topic, numbers]) => `${topic} ${ranges(numbers).join(" ")}`).join(", ");
}

/** The milliseconds of a field of type datetime-local, or undefined. */
export function fieldTime(text) {
  const at = text ? new Date(text).getTime() : NaN;
  return Number.isNaN(at) ? undefined : at;
}

/** The value of a field of type datetime-local for milliseconds, which may stand in a text. */
export function timeField(at) {
  if (!at) return "";
  const date = new Date(Number(at));
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}
