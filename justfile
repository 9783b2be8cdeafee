# Every command of Tandem. Settings (ports, paths, STACK) come from the environment or from .env.

# Only the .env of this checkout counts: without one, just would search the parent folders for the second name.
set dotenv-path := ".env"
set dotenv-filename := "/nonexistent/.env"
set positional-arguments
set quiet
set no-exit-message

# This makes .venv for an installed just; justw has made it already.
export PATH := shell('./justw --prepare && printf %s "$PWD/.venv/bin:$PATH"')

# Python's own variables, such as PYTHONPATH and PYTHONSAFEPATH, do not count: hence -E below.
# Paths in arguments begin where the command was typed.
export TANDEM_CALLER := invocation_directory()

# Lists the recipes
[private]
default:
    just --list --unsorted --justfile "{{ justfile() }}"

# Start everything, wait until it is ready, and print the addresses (STACK=compose: in Docker Compose)
[group('run')]
up *args:
    exec python -E -m dev up "$@"

# Stop everything; the data stays
[group('run')]
down *args:
    exec python -E -m dev down "$@"

# Stop everything and delete the data, after asking (--yes: without asking)
[group('run')]
reset *args:
    exec python -E -m dev reset "$@"

# Start a service or an instance: just start payment, just start payment-1
[group('run')]
start *services:
    exec python -E -m dev start "$@"

# Stop a service or an instance
[group('run')]
stop *services:
    exec python -E -m dev stop "$@"

# Restart a service, one instance after the other, or an instance
[group('run')]
restart *services:
    exec python -E -m dev restart "$@"

# Migrate, then replace every process by the code that is here now, one after the other, while the others serve
[group('run')]
upgrade:
    exec python -E -m dev upgrade

# Kill a service or an instance with SIGKILL (natively); supervisord starts it again
[group('run')]
kill *services:
    exec python -E -m dev kill "$@"

# Freeze a service or an instance with SIGSTOP (natively): its connections stay open, and nothing answers
[group('run')]
freeze *services:
    exec python -E -m dev freeze "$@"

# Let what was frozen go on
[group('run')]
thaw *services:
    exec python -E -m dev thaw "$@"

# Let the standby of a service's database take over from its primary, which stays stopped (STANDBYS): just failover payment
[group('operate')]
failover service:
    exec python -E -m dev failover "$@"

# Make the old primary of a service's database a standby, as a copy of the new one: just rejoin payment
[group('operate')]
rejoin service:
    exec python -E -m dev rejoin "$@"

# Change how many instances run: just scale payment=3 (order-api, order-saga, payment, inventory)
[group('run')]
scale *counts:
    exec python -E -m dev scale "$@"

# Show what runs: state, pid, uptime, ready or not, port
[group('look')]
ps:
    exec python -E -m dev ps

# Follow the logs of everything or of some services (--no-follow: print the last lines; --order ID: those of an order)
[group('look')]
logs *args:
    exec python -E -m dev logs "$@"

# Open psql on a service's database, or run one statement: just psql payment -c 'SELECT …'
[group('look')]
psql *args:
    exec python -E -m dev psql "$@"

# List topics, partitions and consumer groups with their lag
[group('look')]
topics *args='list':
    exec python -E -m dev ops topics "$@"

# Tell the whole story of any order: its stages, payment, stock, parked events (--json, --otlp URL)
[group('look')]
trace *args:
    exec python -E -m dev ops trace "$@"

# Prove, on the running system, that no order was lost, charged twice or oversold (--json, --accepted FILE)
[group('look')]
verify *args:
    exec python -E -m dev ops verify "$@"

# Run Prometheus, Alertmanager and the watch beside the stack (in Compose with Grafana, Jaeger and Kafka UI)
[group('look')]
observe *args:
    exec python -E -m dev observe "$@"

# List, show, redrive or discard parked events, skip a record, or resume a stopped service: just dlq redrive --help
[group('operate')]
dlq *args='list':
    exec python -E -m dev ops dead_letters "$@"

# Split the stock of a product that is ordered all the time, so that instances of inventory do not wait for one another
[group('operate')]
split *args:
    exec python -E -m dev ops split "$@"

# List who deposited, restocked, changed a price, redrove, discarded or made a key (--json, --help)
[group('operate')]
audit *args:
    exec python -E -m dev ops audit "$@"

# Read the log again after a database was restored from a backup: just replay payment --why '…' [--dry-run]
[group('operate')]
replay *args:
    exec python -E -m dev ops replay "$@"

# Make new passwords and certificates while everything runs: just secrets rotate; or one for a Kafka user: certificate
[group('operate')]
secrets *args:
    exec python -E -m dev secrets "$@"

# Make the database of a service beside the stack: just migrate notify=examples.notify (see docs/ADD_A_SERVICE.md)
[group('develop')]
migrate *targets:
    exec python -E -m dev migrate "$@"

# Run a command with the settings of the stack's processes: just env python -m examples.notify
[group('develop')]
env +command:
    exec python -E -m dev env "$@"

# Print a token: just token customer cust-000001, just token merchant|operator|auditor [NAME] (--ttl 15m)
[group('run')]
token *args:
    exec python -E -m dev ops people.token "$@"

# Make, list and revoke API keys for machines, or rotate the issuer's key: just keys create merchant shop
[group('operate')]
keys *args='list':
    exec python -E -m dev ops people.keys "$@"

# Report what is missing, what listens on a taken port, and what to do
[group('look')]
doctor:
    exec python -E -m dev doctor

[private]
lint:
    ruff check
    ruff format --check
    mypy
    lint-imports --no-cache
    python -E -m dev.supply.migrations

# Check lint, formatting, types and imports, and run the unit tests, in seconds
[group('develop')]
check: lint
    exec pytest tests/unit

# Tests wait more than they work, so three workers share two cores.
# Check the same and run every test once, on ports of its own; arguments go to pytest
[group('develop')]
test *args: lint
    exec pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder "$@"

# Check every state that the rules and the protocol can reach within bounds (--bound small|large, default small)
[group('develop')]
model *args:
    exec python -E -m tests.model "$@"

# Kill every process at each of its crash points under load, and check the data, in about 10 minutes (or name some)
[group('develop')]
crash-matrix *args:
    exec python -E -m tests.crash "$@"

# Break a stack of its own in over thirty ways, drawn from a seed, and prove that it holds (--help)
[group('develop')]
chaos *args:
    exec python -E -m tests.chaos "$@"

# Break stacks of its own in 19 ways, and check that each raises exactly its alert, in minutes (or name faults)
[group('develop')]
alerts-drill *args:
    exec python -E -m tests.alerts "$@"

# Plant each known bug in a copy of the checkout, and see that a check finds it (just planted-bugs [NAME ...])
[group('develop')]
planted-bugs *args:
    exec python -E -m tests.planted "$@"

# Attack a stack of its own with 200,000 hostile requests and mutated events, drawn from a seed (--help)
[group('develop')]
fuzz *args:
    exec python -E -m tests.fuzz "$@"

# Measure speed and cost on a stack of its own, in about 9 minutes (--quick: 3, --full: 40, --against REV)
[group('measure')]
bench *args:
    exec python -E -m bench "$@"

# Place a million orders over HTTP on a stack of its own, and prove every one (just million 50000)
[group('measure')]
million *args:
    exec python -E -m bench.million "$@"

# Open Locust's web UI against the running stack, to choose a shape there (in Compose: a service of the load profile)
[group('measure')]
locust *args:
    exec python -E -m dev locust "$@"

# Report where the CPU time goes at a fixed rate, on a stack of its own: just profile [orders a second] [seconds]
[group('measure')]
profile *args:
    exec python -E -m bench.profile "$@"

# Measure what a setting costs: just sweep TOPIC_PARTITIONS=3,6 ORDER_LINGER_MS=0,5 kafka.num.io.threads=2
[group('measure')]
sweep *args:
    exec python -E -m bench.sweep "$@"

# Measure one product against a thousand, with one and with three instances of inventory, in about 10 minutes
[group('measure')]
hot *args:
    exec python -E -m bench.hot "$@"

# Hold a simulation against what was measured (check), draw how far Tandem goes (draw), or measure anew (measure)
[group('measure')]
simulate *args:
    exec python -E -m bench.simulate "$@"

# Send orders to any URL at a fixed rate: just drive http://127.0.0.1:8081/api/v1/orders 100 10
[group('measure')]
drive *args:
    exec python -E -m bench.drive "$@"

# Run 10 users for a minute against the running stack (--own-stack: one of its own), judge the figures, then verify
[group('measure')]
load *args:
    exec python -E -m bench.shaped load "$@"

# Run 0 to 100 users
[group('measure')]
stress *args:
    exec python -E -m bench.shaped stress "$@"

# Run 0 to 50 to 0 users, then ten times as many
[group('measure')]
spike *args:
    exec python -E -m bench.shaped spike "$@"

# Run 10 users for as long as given: just soak 2h
[group('measure')]
soak *args:
    exec python -E -m bench.shaped soak "$@"

# Say what the code changes of the published documents in docs/contract, and fail if it breaks somebody (--publish)
[group('develop')]
contract *args:
    exec python -E -m ops.contract "$@"

# Make examples/shop/openapi.d.ts anew, with npm, after the order api's types have changed
[group('develop')]
client-types:
    exec python -E -m examples.shop.generate_types

# Draw the pictures of the documents (docs/images): the console, on a stack of its own, and the bench's last report; 3 minutes
[group('develop')]
screenshots:
    exec python -E -m tests.browser.screenshots

# Measure what the console costs: list (100,000 events in a page), soak (twenty tabs beside a load), order (an order's CPU)
[group('measure')]
console-cost *args:
    exec python -E -m tests.browser.cost "$@"

# Write the bill of materials (CycloneDX) of all that is pinned here: just sbom [FILE]
[group('develop')]
sbom *args:
    exec python -E -m dev.supply.sbom "$@"

# Renew the lock files to the newest versions that pyproject.toml allows
[group('develop')]
lock:
    uv pip compile pyproject.toml --upgrade --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements.txt
    uv pip compile pyproject.toml --group otel --upgrade --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements.txt -o requirements-otel.txt
    uv pip compile pyproject.toml --group dev --upgrade --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements-otel.txt -o requirements-dev.txt
