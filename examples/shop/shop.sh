#!/bin/sh
# The order api from a shell: place an order, follow it, wait for it, cancel it, list the customer's orders.
#
#     TOKEN=$(just token customer cust-000001) examples/shop/shop.sh http://127.0.0.1:8081 cust-000001 sku-0001
#
# A request that gets no answer may still have had its effect. So each request that changes something has an
# Idempotency-Key, and is sent again with the same key until it is answered: that never orders twice.
set -eu
url=$1/api/v1/orders customer=$2 product=$3
basket=${BASKET:-basket-$(date +%s)-$$} # a shop stores the key with the basket, before the first attempt
answer=$(mktemp) headers=$(mktemp) credentials=$(mktemp)
trap 'rm -f "$answer" "$headers" "$credentials"' EXIT
# In a file that only this user can read: everybody can see the arguments of a process.
[ -z "${TOKEN:-}" ] || echo "authorization: Bearer $TOKEN" >"$credentials"

# Send a request until it is answered, at most 10 times. The pause is what Retry-After asks for, and full jitter.
api() {
    attempt=0
    : >"$headers"
    while [ "$attempt" -lt 10 ]; do
        status=$(curl --silent --max-time 15 --header "@$credentials" --dump-header "$headers" --output "$answer" --write-out '%{http_code}' "$@") || status=000
        case $status in
            2??) cat "$answer"; return ;;
            408 | 429) ;;
            4??) cat "$answer" >&2; return 4 ;; # the api has refused it: sending it again would change nothing
        esac
        after=$(sed -n 's/^[Rr]etry-[Aa]fter: *\([0-9]*\).*/\1/p' "$headers")
        sleep "$(awk -v n="$attempt" -v after="${after:-0}" -v seed="$$" \
            'BEGIN { srand(seed + n); most = 0.1 * 2 ^ n; print after + rand() * (most < 5 ? most : 5) }')"
        attempt=$((attempt + 1))
    done
    echo "no answer after $attempt attempts, the last one was $status: send it again later, with the same key" >&2
    return 1
}
# The value of a member that occurs once. A shell has no JSON; where there is jq, use it.
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }

api "$url" -H 'content-type: application/json' -H "idempotency-key: $basket" \
    -d "{\"customer_id\":\"$customer\",\"product_id\":\"$product\",\"quantity\":1}" >/dev/null
order=$(field order_id <"$answer")
echo "placed $order"

# Server-sent events: one for each entry of the timeline, then `settled`, and the stream ends.
curl --silent --no-buffer --max-time 60 --header "@$credentials" "$url/$order/events" | sed -n 's/^event: /  /p'

while api "$url/$order" >/dev/null || exit; ! grep -q '"settled":true' "$answer"; do sleep 0.2; done
echo "settled $(field status <"$answer")"

# The only refusal to expect is 409: it is too late to cancel.
api -X POST -H "idempotency-key: cancel-$order" "$url/$order/cancel" >/dev/null || [ "$status" = 409 ]
echo "cancel $status"

# Page by page, until next_cursor is null.
cursor=
while [ "$cursor" != null ]; do
    api --get "$url" -d "customer_id=$customer" -d limit=100 ${cursor:+-d "cursor=$cursor"} >/dev/null
    grep -o '"order_id":"[^"]*"' "$answer" | cut -d '"' -f 4
    cursor=$(field next_cursor <"$answer")
done
