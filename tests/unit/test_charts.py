"""The Helm charts, rendered for each value set: the API server and the operators take them, the code finds what it
expects, and nothing is more open than it needs to be."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml
from helm_python import HelmError
from helm_python.chart import lint

import inventory.config
import order.config
import payment.config
from common.config.env import Env
from common.config.process import Process
from common.events import READS, TOPICS
from common.http.server import DRAIN_S
from common.kafka import access, settings
from common.kafka.access import Right
from common.postgres import CONNECTIONS_PER_PROCESS
from common.secrets.passwords import password_of
from dev.servers.kafka import CONFIGURATION
from dev.servers.quorum import REPLICATED
from dev.settings import ROOT
from ops import chart
from ops.console import settings as console
from ops.contract.documents import VERSION
from ops.observe import rules
from ops.observe.scrape import ADMIN_PORT, DATABASE_OF
from tests.charts import schemas
from tests.charts.render import CHARTS, NAMESPACE, SETS, Document, all_rendered, pod_of, render, rendered, values

ALL: Final = pytest.mark.parametrize(("chart_name", "name"), list(all_rendered()))
SERVICES: Final = pytest.mark.parametrize("name", SETS["tandem"])
LOADERS: Final[Mapping[str, Callable[[Env], Process]]] = {
    "order-api": lambda env: order.config.api(env).process,
    "order-saga": lambda env: order.config.saga(env).process,
    "payment": payment.config.load,
    "inventory": inventory.config.load,
    "console": lambda env: console.load(env).process,
}
NOT_HERE: Final = {"AUTH", "KAFKA_CERT_FILE", "KAFKA_KEY_FILE", "LOG_FORMAT", "CONSOLE_PORT"}
"""Settings that a cluster does not need: requests always say who asks, and Kafka's users have passwords."""
OPTIONAL: Final = {
    *("AUTH_KEYS_FILE", "AUTH_JWKS", "AUTH_ISSUER"),
    *("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE", "TRUSTED_PROXIES"),
}
"""Settings that the chart sets if its values say so."""
PORTS: Final = {"order-api": 8081, "payment": 8082, "inventory": 8083, "order-saga": 8084, "console": console.PORT}
INFO: Final = 1
"""As Helm counts how severe a message is."""
STOP_S: Final = 20
"""The time that Compose gives a process to end, too."""


def of_kind(documents: tuple[Document, ...], kind: str) -> dict[str, Document]:
    return {d["metadata"]["name"]: d for d in documents if d["kind"] == kind}


def pods(documents: tuple[Document, ...]) -> Iterator[tuple[str, Document, dict[str, str]]]:
    """The name, the spec and the labels of each pod."""
    for document in documents:
        if (pod := pod_of(document)) is not None:
            yield document["metadata"]["name"], pod, document["spec"]["template"]["metadata"]["labels"]


def containers(pod: Document) -> list[Document]:
    return [*pod["initContainers"], *pod["containers"]]


def environment(pod: Document, name: str) -> dict[str, str]:
    """The variables of a pod's process. Those of the pod itself have its name."""
    [process] = pod["containers"]
    assert all("secretKeyRef" not in str(variable) for variable in process["env"]), "a password in the environment"
    return {variable["name"]: variable.get("value", f"{name}-7d4b9-x2x4z") for variable in process["env"]}


def mounted(pod: Document, volume: str) -> list[str]:
    """The names of the files of a projected volume."""
    [found] = [v for v in pod["volumes"] if v["name"] == volume]
    return [item["path"] for source in found["projected"]["sources"] for item in source["secret"]["items"]]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def policies(documents: tuple[Document, ...], labels: Mapping[str, str]) -> list[Document]:
    return [d["spec"] for d in documents if d["kind"] == "NetworkPolicy" and selects(d["spec"]["podSelector"], labels)]


def ports_to(policy: list[dict[str, Any]]) -> set[int]:
    return {port["port"] for edge in policy for port in edge["ports"]}


@ALL
def test_every_document_is_what_its_schema_allows(chart_name: str, name: str) -> None:
    for document in rendered(chart_name, name):
        assert schemas.problems(document) == [], document["metadata"]["name"]


@ALL
def test_helm_has_no_complaint(chart_name: str, name: str) -> None:
    report = lint(CHARTS / chart_name, values(chart_name, name), strict=True, namespace=NAMESPACE)
    assert [message for message in report["messages"] if message["severity"] > INFO] == []
    assert report["errors"] == []


@pytest.mark.parametrize(
    ("kind", "change", "problem"),
    [
        ("Kafka", {"replicas": 3}, "Additional properties are not allowed"),
        ("Cluster", {"instances": "3"}, "is not of type"),
        ("ScaledObject", {"triggers": None}, "is not of type"),
        ("KafkaTopic", {"partitions": 0}, "is less than the minimum"),
        ("Deployment", {"replica": 3}, "Additional properties are not allowed"),
        ("PodDisruptionBudget", {"maxUnavailable": True}, "is not valid"),
    ],
)
def test_a_mistake_is_found(kind: str, change: dict[str, Any], problem: str) -> None:
    documents = (*rendered("platform", "production"), *rendered("tandem", "production"))
    document = next(d for d in documents if d["kind"] == kind)
    [found] = schemas.problems({**document, "spec": {**document["spec"], **change}})
    assert problem in found


@pytest.mark.parametrize("path", chart.texts())
def test_made_files_are_as_the_code_makes_them(path: str) -> None:
    assert (ROOT / path).read_text() == chart.texts()[path], "run 'python -m ops.chart'"


def test_kafkas_users_have_the_rights_of_the_table() -> None:
    kinds = {kind: name for name, kind in chart._KINDS.items()}
    granted = set()
    for user, document in of_kind(rendered("platform", "production"), "KafkaUser").items():
        assert document["spec"]["authentication"] == {"type": "scram-sha-512"}
        for acl in document["spec"]["authorization"]["acls"]:
            resource = acl["resource"]
            for operation in acl["operations"]:
                named = re.sub("(?<=[a-z])(?=[A-Z])", "_", operation).upper()
                prefixed = resource.get("patternType") == "prefix"
                granted.add(Right(user, kinds[resource["type"]], resource.get("name", access.CLUSTER), named, prefixed))
    assert granted == {right for right in access.rights() if right.user != access.WARM_UP}


@pytest.mark.parametrize(("name", "copies", "partitions"), [("small", 1, 6), ("production", 3, 12)])
def test_topics_and_brokers_are_set_as_the_code_wants_them(name: str, copies: int, partitions: int) -> None:
    documents = rendered("platform", name)
    topics = of_kind(documents, "KafkaTopic")
    assert set(topics) == set(TOPICS)
    for topic, document in topics.items():
        spec = document["spec"]
        assert spec["config"] == settings.wanted(topic, copies)
        assert (spec["replicas"], spec["partitions"]) == (copies, settings.partitions_of(topic, partitions))
    [kafka] = of_kind(documents, "Kafka").values()
    config = kafka["spec"]["kafka"]["config"]
    same = {n: v for n, v in CONFIGURATION.items() if n.startswith(("group.", "log.retention.", "log.message."))}
    same |= {n: CONFIGURATION[n] for n in ("offsets.retention.minutes", "auto.create.topics.enable")}
    same |= {n: v for n, v in REPLICATED.items() if n.startswith(("unclean.", "replica.", "leader."))}
    assert same.items() <= config.items()
    assert {v for n, v in config.items() if "replication.factor" in n} == {str(copies)}
    assert {v for n, v in config.items() if n.endswith(("min.isr", "insync.replicas"))} == {str(max(1, copies - 1))}
    belonging = [d for d in documents if d["kind"] in ("KafkaNodePool", "KafkaTopic", "KafkaUser")]
    assert {d["metadata"]["labels"]["strimzi.io/cluster"] for d in belonging} == {kafka["metadata"]["name"]}
    pools = of_kind(documents, "KafkaNodePool")
    assert {tuple(pool["spec"]["roles"]) for pool in pools.values()} == {("broker",), ("controller",)}


@pytest.mark.parametrize(("name", "copies"), [("small", 1), ("production", 3)])
def test_a_commit_is_on_two_database_servers(name: str, copies: int) -> None:
    clusters = of_kind(rendered("platform", name), "Cluster")
    assert set(clusters) == {f"{database}-db" for database in ("order", "payment", "inventory")}
    for cluster in clusters.values():
        assert cluster["spec"]["instances"] == copies
        quorum = {"method": "any", "number": 1, "dataDurability": "required", "failoverQuorum": True}
        assert cluster["spec"]["postgresql"].get("synchronous") == (quorum if copies > 1 else None)


@SERVICES
def test_pods_keep_the_restricted_standard_and_have_limits(name: str) -> None:
    for _, pod, _ in pods(rendered("tandem", name)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert all(volume.keys() <= {"name", "projected", "emptyDir"} for volume in pod["volumes"])
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"].keys() == {"memory", "ephemeral-storage"}
            assert container["resources"]["requests"].keys() == {"cpu", "memory", "ephemeral-storage"}
            assert re.search(r"@sha256:[0-9a-f]{64}$|:\d[\w.-]*$", container["image"])


@pytest.mark.parametrize("name", SETS["platform"])
def test_pods_of_the_operators_keep_the_restricted_standard(name: str) -> None:
    documents = rendered("platform", name)
    templates = [d["spec"]["template"] for d in documents if d["kind"] == "KafkaNodePool"]
    templates.append(next(d for d in documents if d["kind"] == "Kafka")["spec"]["entityOperator"]["template"])
    for template in templates:
        assert template["pod"]["securityContext"]["runAsNonRoot"] is True
        inner = [of["securityContext"] for part, of in template.items() if part != "pod"]
        assert inner
        assert all((c["allowPrivilegeEscalation"], c["capabilities"]["drop"]) == (False, ["ALL"]) for c in inner)


@SERVICES
def test_every_pod_is_closed_but_for_its_edges(name: str) -> None:
    documents = rendered("tandem", name)
    for pod_name, pod, labels in pods(documents):
        closed, edges = sorted(policies(documents, labels), key=len)
        assert closed.keys() == {"podSelector", "policyTypes"}
        assert closed["policyTypes"] == edges["policyTypes"] == ["Ingress", "Egress"]
        variables = environment(pod, pod_name)
        needed = {int(n) for n in re.findall(r":(\d+)\b", variables.get("KAFKA_BOOTSTRAP_SERVERS", ""))}
        needed |= {int(n) for url in variables.values() for n in re.findall(r"(?<=:)\d+(?=[,/])", url) if "@" in url}
        assert needed | {53} <= ports_to(edges["egress"])
        assert all(edge.get("to") for edge in edges["egress"]), "an edge to everywhere"
        assert all(edge.get("from") for edge in edges.get("ingress", ())), "an edge from everywhere"
        if pod_name == "console":
            assert {8081, ADMIN_PORT} <= ports_to(edges["egress"])
        if pod_name != "migrate":
            public = set() if pod_name == "order-saga" else {PORTS[pod_name]}
            assert ports_to(edges["ingress"]) == {ADMIN_PORT} | public


@SERVICES
def test_nodes_can_be_drained_and_instances_are_spread(name: str) -> None:
    documents = rendered("tandem", name)
    budgets = of_kind(documents, "PodDisruptionBudget")
    for deployment, document in of_kind(documents, "Deployment").items():
        labels = document["spec"]["template"]["metadata"]["labels"]
        assert selects(document["spec"]["selector"], labels)
        assert selects(budgets[deployment]["spec"]["selector"], labels)
        assert budgets[deployment]["spec"]["maxUnavailable"] == 1
        spread = document["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert {c["topologyKey"] for c in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        assert all(selects(c["labelSelector"], labels) for c in spread)


@SERVICES
def test_a_pod_ends_when_the_code_has_drained(name: str) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for document in of_kind(rendered("tandem", name), "Deployment").values():
        pod = document["spec"]["template"]["spec"]
        [process] = pod["containers"]
        pause_s = process["lifecycle"]["preStop"]["sleep"]["seconds"]
        drain_s = pod["terminationGracePeriodSeconds"] - pause_s
        assert (pause_s, f"{drain_s}s") == (5, compose["payment"]["stop_grace_period"])
        assert DRAIN_S < drain_s == STOP_S


@SERVICES
def test_a_broker_that_is_away_kills_nothing(name: str) -> None:
    for document in of_kind(rendered("tandem", name), "Deployment").values():
        [process] = document["spec"]["template"]["spec"]["containers"]
        probes = {probe: process[probe]["httpGet"]["path"] for probe in process if probe.endswith("Probe")}
        assert probes == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
        assert {process[probe]["httpGet"]["port"] for probe in probes} == {"admin"}
        # Longer than a batch may hold the interpreter, and than the kernel may starve it.
        assert process["livenessProbe"]["periodSeconds"] * process["livenessProbe"]["failureThreshold"] == 60


def started(pod: Document, name: str, folder: Path) -> tuple[Env, Process | None]:
    """The settings as the process reads them, with its files in a folder."""
    for volume, inside in (("secrets", "secrets"), ("passwords", "private")):
        (folder / inside).mkdir()
        for path in mounted(pod, volume):
            (folder / inside / path).write_text(f"*:*:*:{path.partition('-')[2].removesuffix('.pgpass')}:secret\n")
    moved = {n: re.sub(r"/(secrets|private)/", rf"{folder}/\1/", v) for n, v in environment(pod, name).items()}
    env = Env(name, moved)
    return env, LOADERS[name](env) if name in LOADERS else None


@SERVICES
def test_the_code_takes_every_setting_and_finds_every_file(name: str, tmp_path: Path) -> None:
    schema = yaml.safe_load((ROOT / "deploy/tandem/values.schema.json").read_text())
    offered = set(schema["$defs"]["env"]["propertyNames"]["enum"])
    read: set[str] = set()
    for pod_name, pod, _ in pods(rendered("tandem", name)):
        folder = tmp_path / pod_name
        folder.mkdir()
        env, process = started(pod, pod_name, folder)
        given = environment(pod, pod_name)
        if process is None:
            assert given.keys() == {"LOG_FORMAT", "LOG_LEVEL"} | {
                f"{d.upper()}_{kind}_URL"
                for d in set(DATABASE_OF.values())
                for kind in ("ADMIN", "DATABASE", "AUDITOR")
            }
        else:
            assert given.keys() <= env.names
            assert env.names - given.keys() <= offered | NOT_HERE | OPTIONAL
            assert process.auth is not None
            assert process.instance.startswith(f"{pod_name}-")  # what Kafka's rights go by
            assert process.brokers.username == pod_name
            read |= env.names
        for variable, url in ((n, v) for n, v in env._environ.items() if n.endswith("_URL") and "@" in v):
            parts = urlsplit(url.replace(",pg-2.example:6432", ""))
            options = dict(parse_qsl(parts.query))
            assert (options["sslmode"], options["channel_binding"]) == ("verify-full", "require")
            assert Path(options["sslrootcert"]).exists()
            assert password_of(url) == "secret", variable
    assert offered <= read, "an offered setting that no process reads"


@SERVICES
def test_ports_are_those_of_the_code(name: str) -> None:
    documents = rendered("tandem", name)
    services = of_kind(documents, "Service")
    for pod_name, pod, labels in pods(documents):
        if pod_name == "migrate":
            continue
        variables = environment(pod, pod_name)
        [process] = pod["containers"]
        ports = {port["name"]: port["containerPort"] for port in process["ports"]}
        assert ports == {"http": PORTS[pod_name], "admin": ADMIN_PORT}
        assert (variables["HTTP_PORT"], variables["ADMIN_PORT"]) == (str(ports["http"]), str(ports["admin"]))
        for service, port in ((pod_name, "http"), (f"{pod_name}-admin", "admin")):
            assert services[service]["spec"]["ports"][0]["port"] == ports[port]
            assert services[service]["spec"]["selector"].items() <= labels.items()


def test_the_ingress_publishes_by_tls_what_clients_call_and_nothing_else() -> None:
    assert not of_kind(rendered("tandem", "secured-external"), "Ingress"), "it is off unless it is asked for"
    documents = rendered("tandem", "production")
    [ingress] = of_kind(documents, "Ingress").values()
    [rule] = ingress["spec"]["rules"]
    [tls] = ingress["spec"]["tls"]
    assert (tls["hosts"], tls["secretName"]) == ([rule["host"]], "shop-example-tls")
    backends = {of["path"]: of["backend"]["service"] for of in rule["http"]["paths"]}
    assert {of["pathType"] for of in rule["http"]["paths"]} == {"Prefix"}
    offered = set()
    for service, document in {"order-api": "order", "payment": "payment", "inventory": "inventory"}.items():
        contract = yaml.safe_load((ROOT / f"docs/contract/{VERSION}/{document}.openapi.json").read_text())
        prefixes = {"/".join(path.split("/")[:4]) for path in contract["paths"] if path.startswith("/api/")}
        offered |= {(prefix, service) for prefix in prefixes}
    assert {(path, to["name"]) for path, to in backends.items()} == offered
    services = of_kind(documents, "Service")
    for to in backends.values():
        assert to["port"]["name"] in {port["name"] for port in services[to["name"]]["spec"]["ports"]}
    for pod_name, pod, _ in pods(documents):
        if pod_name in {to["name"] for to in backends.values()}:
            assert rule["host"] in environment(pod, pod_name)["ALLOWED_HOSTS"].split(",")


def test_prometheus_may_read_the_database_servers() -> None:
    documents = rendered("platform", "production")
    monitors = of_kind(documents, "PodMonitor")
    clusters = of_kind(documents, "Cluster")
    assert monitors.keys() == {"kafka", *clusters}
    for name in clusters:
        selected = {"cnpg.io/cluster": name}
        assert selects(monitors[name]["spec"]["selector"], selected)
        [policy] = policies(documents, selected)
        assert 9187 in ports_to(policy["ingress"]), "where CloudNativePG shows its metrics"
        assert all(edge.get("from") for edge in policy["ingress"]), "an edge from everywhere"
    assert not of_kind(rendered("platform", "small"), "PodMonitor")


@pytest.mark.parametrize("name", ["production", "secured-external"])
def test_consumers_scale_by_lag_up_to_their_partitions(name: str) -> None:
    scaled = of_kind(rendered("tandem", name), "ScaledObject")
    given = values("tandem", name)
    assert scaled.keys() == {"order-api", *READS}
    for service, document in scaled.items():
        assert "replicas" not in of_kind(rendered("tandem", name), "Deployment")[service]["spec"]
        triggers = document["spec"]["triggers"]
        if service == "order-api":
            assert [trigger["type"] for trigger in triggers] == ["cpu"]
            continue
        assert tuple(trigger["metadata"]["topic"] for trigger in triggers) == READS[service]
        for trigger in triggers:
            assert trigger["metadata"] == {
                "bootstrapServers": given["kafka"].get(
                    "bootstrapServers", f"tandem-kafka-bootstrap.{NAMESPACE}.svc:9093"
                ),
                "consumerGroup": service,
                "topic": trigger["metadata"]["topic"],
                "lagThreshold": trigger["metadata"]["lagThreshold"],
                "offsetResetPolicy": "earliest",
                "allowIdleConsumers": "false",  # as many instances as partitions at most
                "sasl": "scram_sha512",
                "tls": "enable",
                "version": "4.0.0",
            }
        assert document["spec"]["maxReplicaCount"] <= given["kafka"]["partitions"]


@pytest.mark.parametrize("name", SETS["platform"])
def test_databases_have_connections_for_all_instances(name: str) -> None:
    defaults = yaml.safe_load((CHARTS / "tandem/values.yaml").read_text())
    services = merged(defaults, values("tandem", name))["services"]
    for database in set(DATABASE_OF.values()):
        cluster = of_kind(rendered("platform", name), "Cluster")[f"{database}-db"]
        allowed = int(cluster["spec"]["postgresql"]["parameters"]["max_connections"])
        # One more of each in a roll-out; the console and migrations.
        most = sum(services[s]["scaling"]["max"] + 1 for s, of in DATABASE_OF.items() if of == database) + 2
        assert most * CONNECTIONS_PER_PROCESS <= allowed


def test_the_rules_know_what_is_scraped() -> None:
    documents = rendered("tandem", "production")
    [rule] = of_kind(documents, "PrometheusRule").values()
    assert rule["spec"] == rules.rules()
    jobs = set(re.findall(r'job="([^"]+)"', str(rule["spec"])))
    monitors = of_kind(documents, "ServiceMonitor").values()
    relabelings = [r for m in monitors for r in m["spec"]["endpoints"][0]["relabelings"]]
    assert jobs == {r["replacement"] for r in relabelings if r["targetLabel"] == "job"} == {"tandem", "tandem-console"}
    labels = [d["metadata"]["labels"] for d in of_kind(documents, "Service").values()]
    scraped = {of["app.kubernetes.io/name"]: of.get("tandem/database") for of in labels if "tandem/admin" in of}
    assert scraped == {**DATABASE_OF, "console": None}


@pytest.mark.parametrize(
    ("chart_name", "change", "problem"),
    [
        ("tandem", {"image": {"repository": "tandem", "tag": "latest"}}, "/image/tag"),
        ("tandem", {"image": {"tag": ""}}, "/image"),
        ("tandem", {"auth": {"jwksSecret": "", "keysSecret": ""}}, "auth"),
        (
            "tandem",
            {"kafka": {"partitions": 4}, "services": {"payment": {"scaling": {"enabled": True}}}},
            "set at most 4",
        ),
        ("tandem", {"services": {"payment": {"env": {"ORDERS_IN_FLIGHT": 1}}}}, "ORDERS_IN_FLIGHT"),
        ("tandem", {"http": {"trustedProxies": []}}, "all clients are at their address"),
        ("tandem", {"ingress": {"enabled": True, "host": "shop.example"}}, "tlsSecret"),
        ("tandem", {"servcies": {}}, "servcies"),
        ("platform", {"databases": {"image": "postgres:latest"}}, "image"),
        ("platform", {"kafka": {"brokers": {"replicas": 0}}}, "replicas"),
    ],
)
def test_wrong_values_are_refused(chart_name: str, change: dict[str, Any], problem: str) -> None:
    given = merged(values(chart_name, "small"), change)
    with pytest.raises(HelmError, match=problem):
        render(chart_name, given)


def merged(given: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Values with a change, merged as Helm does it."""
    both = dict(given)
    for name, value in change.items():
        inner = given.get(name)
        both[name] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return both
