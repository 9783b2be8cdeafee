// A list that the server gives page by page.

import { useCallback, useEffect, useState } from "./vendor/htm-preact.js";
import { get, query } from "./http.js";

const PAGE = 200;

/** Pages of a list, read one after the other: `{rows, page, loading, error, more, onEnd, refresh}`. `page` is the last answer; `more`
 * reads the next one, and `onEnd` does so only after a full page: a search that finds little goes on when it is told to. */
export function usePages(path, filter, rowsOf) {
  const key = JSON.stringify(filter);
  const [list, setList] = useState({ key, rows: [], page: null });
  const [wanted, setWanted] = useState({ key, after: undefined, round: 0 });
  const [loading, setLoading] = useState(false);
  const [error, setError] = useState();
  useEffect(() => setWanted((wanted) => (wanted.key === key ? wanted : { key, after: undefined, round: wanted.round + 1 })), [key]);
  useEffect(() => {
    if (wanted.key !== key) return undefined;
    const gone = new AbortController();
    setLoading(true);
    setError();
    get(`${path}${query({ ...filter, after: wanted.after, limit: PAGE })}`, gone.signal).then(
      (page) => {
        setList((list) => ({ key, page, rows: wanted.after ? [...list.rows, ...rowsOf(page)] : rowsOf(page) }));
        setLoading(false);
      },
      (refusal) => {
        if (refusal.name === "AbortError") return;
        setError(refusal);
        setLoading(false);
      });
    return () => gone.abort();
  }, [wanted]);
  const stale = list.key !== key; // it belongs to the filter before
  const next = stale ? null : list.page?.next;
  // `loading` is true only after the next paint, and until then more may be asked for again: a page that is wanted is not wanted twice.
  const more = useCallback(() => next && !loading && setWanted((wanted) =>
    wanted.key === key && wanted.after === next ? wanted : { key, after: next, round: wanted.round + 1 }), [next, loading, key]);
  const refresh = () => setWanted(({ round }) => ({ key, after: undefined, round: round + 1 }));
  const further = next && !error ? more : undefined;
  const full = !stale && list.page && rowsOf(list.page).length >= PAGE;
  return { rows: list.rows, page: list.page, loading: loading || (stale && !error), error, more: further, onEnd: full ? further : undefined, refresh };
}
