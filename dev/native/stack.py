"""The native stack: PostgreSQL, Kafka and the services as processes of this machine, kept up by supervisord."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dev import logs
from dev.addresses import print_addresses
from dev.native.supervise import Program, Supervisor
from dev.native.waiting import Waiting
from dev.servers import processes
from dev.servers.kafka import Broker
from dev.servers.postgres import Cluster, binary
from dev.servers.server import Server, StartError, has_met_taken_port, size_of, tail
from dev.settings import (
    HOST,
    INSTANCES_MAX,
    PORT_SETTINGS,
    ROOT,
    SERVICES,
    Service,
    Settings,
    environment,
    instance_environment,
    stored_passwords,
)
from dev.state import State

READY_S = 90
SERVICE_STOP_S = 20
SERVER_STOP_S = 120  # PostgreSQL's checkpoint at the end of a heavy load takes a while

# Each changes nothing the second time. What stands in one row runs side by side.
DATABASE_SET_UP = (("ops.migrate",),), (("payment", "load-demo"), ("inventory", "load-demo"))
TOPIC_SET_UP = ((("ops.topics", "create"),),)


class StackError(Exception):
    """A command cannot do what it was asked; the message says what to do instead."""


@dataclass(frozen=True)
class Instance:
    """One running process of a service."""

    service: Service
    number: int

    @property
    def name(self) -> str:
        return self.service.instance(self.number)


class NativeStack:
    def __init__(self, settings: Settings) -> None:
        self.home = settings.home
        self.state = State.load(self.home)
        self.asked = settings
        self.settings = self.state.remembered(settings)
        self.supervisor = Supervisor(self.home)

    # What there is

    def server(self, name: str) -> Server:
        if name == "postgres":
            password = stored_passwords(self.home)["postgres"]
            return Cluster(self.home / "postgres", self.settings.postgres_port, password)
        ports = (self.settings.kafka_port, self.settings.kafka_controller_port)
        return Broker(self.home / "kafka", *ports, cache=self.settings.cache)

    def instances(self) -> list[Instance]:
        counts = self.state.instances()
        return [Instance(s, number) for s in SERVICES for number in range(1, counts[s.name] + 1)]

    def environment(self) -> dict[str, str]:
        settings, passwords = self.settings, stored_passwords(self.home)
        return environment(kafka_port=settings.kafka_port, postgres_port=settings.postgres_port, passwords=passwords)

    def instance_environment(self, instance: Instance) -> dict[str, str]:
        return instance_environment(
            instance.service,
            instance.number,
            port=self.settings.port(instance.service),
            admin_port=self.settings.admin_port(instance.service, instance.number),
        )

    def programs(self) -> list[Program]:
        servers = [
            Program("postgres", priority=1, stop_signal="INT", stop_s=SERVER_STOP_S, autostart=True),
            Program("kafka", priority=1, stop_signal="TERM", stop_s=SERVER_STOP_S, autostart=True),
        ]
        # Not by themselves: on a first start there is no schema yet for them to find.
        return servers + [
            Program(i.name, priority=2, stop_signal="TERM", stop_s=SERVICE_STOP_S, autostart=False)
            for i in self.instances()
        ]

    def named(self, names: Iterable[str]) -> list[str]:
        """The programs that the names stand for: a service stands for all its instances."""
        programs = [program.name for program in self.programs()]
        chosen: list[str] = []
        for name in names:
            found = [p for p in programs if p == name or p.rpartition("-")[0] == name]
            if not found:
                services = ", ".join(["kafka", "postgres", *(service.name for service in SERVICES)])
                raise StackError(f"there is no {name!r}; services are {services}, instances are {', '.join(programs)}")
            chosen += [program for program in found if program not in chosen]
        return chosen

    def unready(self, name: str) -> str | None:
        """What a running program is still missing."""
        if name in ("postgres", "kafka"):
            return self.server(name).unready()
        instance = next(i for i in self.instances() if i.name == name)
        port = self.settings.admin_port(instance.service, instance.number)
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/readyz", timeout=2):
                return None
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            with suppress(ValueError, KeyError, TypeError):
                text = "; ".join(json.loads(text)["missing"])
            return text[:200] or str(error)
        except OSError as error:
            return f"no answer on port {port} ({getattr(error, 'reason', error)})"

    # What can be done

    def up(self) -> None:
        started = time.monotonic()
        running = self.supervisor.running()
        if running and self._is_complete():
            self._refuse_other_ports()
            print("Tandem is up already; nothing was changed\n")
            print_addresses(self.settings)
            return
        if not running:
            self._launch()
        self.supervisor.write(self.programs())
        self.supervisor.update()
        self.supervisor.start(["postgres", "kafka"])
        with ThreadPoolExecutor() as pool:
            sides = [
                pool.submit(self._set_up, "postgres", DATABASE_SET_UP),
                pool.submit(self._set_up, "kafka", TOPIC_SET_UP),
            ]
            for side in sides:
                side.result()
        names = [instance.name for instance in self.instances()]
        self.supervisor.start(names)
        self._wait_ready(names, READY_S)
        print(f"Tandem is up after {time.monotonic() - started:.0f} s\n")
        print_addresses(self.settings)

    def down(self) -> None:
        self._stop_all()
        print("Tandem is down; its data stays, 'just up' brings it back")

    def _stop_all(self) -> None:
        if self.supervisor.running():
            names = list(self.supervisor.statuses())
            servers = [name for name in names if name in ("postgres", "kafka")]
            print(f"stopping {', '.join(names)}", flush=True)
            self.supervisor.stop([name for name in names if name not in servers])
            self.supervisor.stop(servers)
            self.supervisor.shutdown()
        self._stop_left_over()
        self.state.stopped()

    def reset(self) -> None:
        self._stop_all()
        for name in ("postgres", "kafka", "logs", "supervisor"):
            shutil.rmtree(self.home / name, ignore_errors=True)
        for name in ("secrets.json", "stack.json", "postgres.log", "kafka.log"):
            (self.home / name).unlink(missing_ok=True)
        print("Tandem is down and its data is deleted; 'just up' starts afresh")

    def start(self, names: list[str]) -> None:
        chosen = self.named(names)
        self._require_running()
        self.supervisor.start(chosen)
        self._wait_ready(chosen, READY_S)

    def stop(self, names: list[str]) -> None:
        chosen = self.named(names)
        self._require_running()
        self.supervisor.stop(chosen)
        print(f"stopped: {', '.join(chosen)}")

    def restart(self, names: list[str]) -> None:
        self.stop(names)
        self.start(names)

    def scale(self, counts: dict[str, int]) -> None:
        services = {service.name for service in SERVICES}
        for name, count in counts.items():
            if name not in services:
                raise StackError(f"{name!r} cannot be scaled; these can: {', '.join(sorted(services))}")
            if not 1 <= count <= INSTANCES_MAX:
                raise StackError(
                    f"{name}={count}: from 1 to {INSTANCES_MAX} instances are possible; to have none, just stop {name}"
                )
        before = {instance.name for instance in self.instances()}
        self.state.scale |= counts
        self.state.save()
        if not self.supervisor.running():
            print("remembered; 'just up' starts that many")
            return
        self.supervisor.write(self.programs())
        self.supervisor.update()
        added = [instance.name for instance in self.instances() if instance.name not in before]
        self.supervisor.start(added)
        self._wait_ready(added, READY_S)
        print(", ".join(f"{name}: {count}" for name, count in self.state.instances().items()))

    def ps(self) -> None:
        self._require_running()
        ports = {"postgres": self.settings.postgres_port, "kafka": self.settings.kafka_port}
        ports |= {i.name: self.settings.port(i.service) for i in self.instances()}
        admin_ports = {i.name: self.settings.admin_port(i.service, i.number) for i in self.instances()}
        row = "{:<14} {:<9} {:>8} {:>9} {:>6} {:>6}  {}"
        print(row.format("NAME", "STATE", "PID", "UPTIME", "PORT", "ADMIN", "READY"))
        for name, status in sorted(self.supervisor.statuses().items(), key=lambda item: list(ports).index(item[0])):
            running = status.state == "RUNNING"
            failing = status.state in ("BACKOFF", "FATAL", "EXITED")
            missing = self.unready(name) if running else status.remark if failing else None
            uptime = f"{status.uptime_s // 60}:{status.uptime_s % 60:02}" if running else "-"
            columns = (name, status.state.lower(), status.pid or "-", uptime, ports[name], admin_ports.get(name, "-"))
            print(row.format(*columns, f"no: {missing}" if missing else "yes" if running else "no"))

    def logs(self, names: list[str], lines: int, follow: bool) -> None:
        chosen = self.named(names) if names else [program.name for program in self.programs()]
        logs.show([self._log(name) for name in chosen], lines=lines, follow=follow)

    def psql(self, database: str, arguments: list[str]) -> None:
        self._require_running()
        connection = {
            "PGHOST": HOST,
            "PGPORT": str(self.settings.postgres_port),
            "PGUSER": database,
            "PGPASSWORD": stored_passwords(self.home)[database],
            "PGDATABASE": database,
            "PGSSLMODE": "disable",
        }
        program = str(binary("psql"))
        os.execve(program, [program, *arguments], {**os.environ, **connection})

    def ops(self, arguments: list[str]) -> None:
        self._require_running()
        module, *rest = arguments
        os.execve(sys.executable, [sys.executable, "-m", f"ops.{module}", *rest], {**os.environ, **self.environment()})

    def locust(self, arguments: list[str]) -> None:
        self._require_running()
        target = f"http://{HOST}:{self.settings.order_api_port}"
        given = ["-f", str(ROOT / "locustfile.py"), "--class-picker", "--web-host", HOST, "--host", target, *arguments]
        os.execve(sys.executable, [sys.executable, "-m", "locust", *given], dict(os.environ))

    def run(self, name: str) -> None:
        """Becomes the named program; what supervisord calls."""
        if name in ("postgres", "kafka"):
            server = self.server(name)
            server.prepare()
            command = server.command()
            os.execve(command[0], command, server.environment())
        instance = next(i for i in self.instances() if i.name == name)
        variables = {**os.environ, **self.environment(), **self.instance_environment(instance)}
        os.execve(sys.executable, [sys.executable, *instance.service.command], variables)

    # How

    def _launch(self) -> None:
        self._stop_left_over()
        self.settings = self.asked
        self._refuse_taken_ports()
        self.state.started("native", self.settings)
        # Here rather than only under supervisord, so that one sees the jars come.
        for name in ("postgres", "kafka"):
            print(f"preparing {name}", flush=True)
            self.server(name).prepare()
        self.supervisor.write(self.programs())
        self.supervisor.launch()

    def _is_complete(self) -> bool:
        statuses = self.supervisor.statuses()
        wanted = [program.name for program in self.programs()]
        running = all(name in statuses and statuses[name].state == "RUNNING" for name in wanted)
        return running and not any(self.unready(name) for name in wanted)

    def _refuse_other_ports(self) -> None:
        changed = [
            n for n in PORT_SETTINGS if n.upper() in os.environ and getattr(self.asked, n) != self.state.ports[n]
        ]
        if changed:
            asked = ", ".join(f"{name.upper()}={getattr(self.asked, name)}" for name in changed)
            raise StackError(f"Tandem is up on other ports than {asked}; 'just down' first")

    def _refuse_taken_ports(self) -> None:
        ports = {name.upper(): getattr(self.settings, name) for name in PORT_SETTINGS if name != "admin_port_base"}
        taken = {name: port for name, port in ports.items() if processes.is_taken(port)}
        lines = [f"  {name}={port} is taken by {processes.holder(port)}" for name, port in taken.items()]
        admin = {i.name: self.settings.admin_port(i.service, i.number) for i in self.instances()}
        lines += [
            f"  ADMIN_PORT_BASE={self.settings.admin_port_base}: {port} for {name} is taken by {processes.holder(port)}"
            for name, port in admin.items()
            if processes.is_taken(port)
        ]
        if lines:
            way_out = "stop what has them, or set others, in the environment or in .env"
            raise StackError("\n".join(["these ports are taken:", *lines, way_out]))

    def _taken_ports(self, name: str) -> str:
        """Of a program whose log says that a port is taken: which, and by whom. It may have been free before `up`."""
        if name in ("postgres", "kafka"):
            ports = {getattr(self.settings, f"{name}_port")}
        else:
            instance = next(i for i in self.instances() if i.name == name)
            ports = {
                self.settings.port(instance.service),
                self.settings.admin_port(instance.service, instance.number),
            }
        taken = [f"{port} by {processes.holder(port)}" for port in sorted(ports) if processes.is_taken(port)]
        return f"a port of it is taken: {', '.join(taken) or 'it is free again'}"

    def _stop_left_over(self) -> None:
        left = processes.of_stack(self.home)
        if left:
            print(f"stopping what an earlier run left: {len(left)} processes", flush=True)
            processes.stop(left)

    def _log(self, name: str) -> Path:
        return self.settings.logs / f"{name}.log"

    def _require_running(self) -> None:
        if not self.supervisor.running():
            raise StackError("Tandem is not up; 'just up' starts it")

    def _set_up(self, server: str, rows: Iterable[Iterable[tuple[str, ...]]]) -> None:
        """Waits for the server, then runs what makes it ready for the services."""
        self._wait_ready([server], None)
        variables = {**os.environ, "LOG_FORMAT": "text", **self.environment()}
        for row in rows:
            running = {
                " ".join(command): subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=variables)
                for command in row
            }
            failed = [command for command, process in running.items() if process.wait() != 0]
            if failed:
                raise StackError(f"python -m {failed[0]} failed; see above")

    def _wait_ready(self, names: list[str], limit_s: float | None) -> None:
        """Returns when all are, telling what is missing meanwhile. Without a limit one that lives may take for ever."""
        waiting = Waiting(names, limit_s)
        logged = {name: size_of(self._log(name)) for name in names}
        while names := waiting.names:
            statuses = self.supervisor.statuses()
            for name in list(names):
                alive = statuses[name].state in ("RUNNING", "STARTING")
                missing = self.unready(name) if alive else statuses[name].remark or "starting"
                if missing is not None and has_met_taken_port(self._log(name), logged[name]):
                    missing = self._taken_ports(name)
                waiting.see(statuses[name], missing)
            waiting.report()
            if late := waiting.late():
                ends = "\n".join(f"the end of {self._log(name)}:\n{tail(self._log(name))}" for name in late)
                reasons = "\n".join(f"{name} is not ready: {waiting.missing[name]}" for name in late)
                raise StartError(f"{ends}\n{reasons}")
            time.sleep(0.1)
