-- The SQL of `just audit`.

-- name: entries
-- Newest first. A part of a target suffices: `cust-000001` finds `account cust-000001`.
SELECT to_char(acted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS acted_at, entry_id, principal, kind,
  request_id, credential, act, target, detail, result
FROM audit
WHERE (%(principal)s::text IS NULL OR principal = %(principal)s)
  AND (%(act)s::text IS NULL OR act = %(act)s)
  AND (%(target)s::text IS NULL OR strpos(target, %(target)s) > 0)
  AND (%(credential)s::text IS NULL OR credential = %(credential)s)
  AND (%(request_id)s::text IS NULL OR request_id = %(request_id)s)
  AND (%(since)s::timestamptz IS NULL OR audit.acted_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR audit.acted_at < %(until)s)
ORDER BY audit.acted_at DESC, entry_id DESC LIMIT %(limit)s
