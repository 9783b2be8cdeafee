"""The native stack: PostgreSQL, Kafka and the services as processes of this machine, kept up by supervisord."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from xmlrpc.client import Fault

from common.files import write
from common.kafka.access import OPERATOR, WARM_UP
from common.secrets.passwords import database_url
from common.terminal import printable
from common.tls.authority import Authority
from dev import home as homes
from dev import logs, observe
from dev.environment import child, tight_limits
from dev.native import failover, rolling
from dev.native.supervise import STATES_ENDED, Status
from dev.native.supervised import SET_UP, SupervisedStack
from dev.servers import processes, users
from dev.servers.postgres import binary
from dev.servers.secure_postgres import libpq as secure_libpq
from dev.settings import CONSOLE, HOST, ROOT
from dev.stack import DOWN, LOAD_TOKEN, REMEMBERED, StackError, caller

CONNECT_S = 10
PSQL_OPTIONS = ("--no-psqlrc", "--set=ON_ERROR_STOP=1")
"""A runbook's statements do the same for everybody: with AUTOCOMMIT off, an UPDATE would change nothing. And a script
ends at the first statement that fails, with 3."""
SIGNALLED = {signal.SIGKILL: "killed", signal.SIGSTOP: "frozen", signal.SIGCONT: "thawed"}


class NativeStack(SupervisedStack):
    instances_max = 99  # the admin ports of a service are a block of a hundred

    def up(self) -> None:
        started = time.monotonic()
        running = self.supervisor.running()
        if running:
            self._refuse_other_settings()
        if running and self._is_complete():
            print("Tandem is up already; nothing was changed\n")
            self.print_addresses()
            return
        if running:
            self.configure_supervisor()
        else:
            self._launch()
        self.supervisor.start(self.programs.servers)
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._set_up, SET_UP))
        self.start_programs([*self.programs.instances, CONSOLE])
        self.supervisor.start([WARM_UP])
        print(f"Tandem is up after {time.monotonic() - started:.0f} s\n")
        self.print_addresses()

    def down(self) -> None:
        self._stop_all()
        print(DOWN)

    def reset(self) -> None:
        self._stop_all()
        homes.delete_data(self.home)
        print("Tandem is down and its data is deleted; 'just up' starts afresh")

    def start(self, names: list[str]) -> None:
        chosen = self.programs.matching(names)
        self._require_running()
        self.start_programs(chosen)

    def stop(self, names: list[str]) -> None:
        chosen = self.programs.matching(names)
        self._require_running()
        self.supervisor.stop(chosen)
        print(f"stopped: {', '.join(chosen)}")

    def restart(self, names: list[str]) -> None:
        """While one instance of a service is away, the others serve."""
        chosen = self.programs.matching(names)
        self._require_running()
        rolling.roll(self, chosen)
        print(f"restarted: {', '.join(chosen)}")

    def upgrade(self) -> None:
        self._require_running()
        rolling.upgrade(self)
        print("upgraded: every process runs the code of this checkout")

    def send_signal(self, names: list[str], number: signal.Signals) -> None:
        chosen = self.programs.matching(names)
        self._require_running()
        statuses = self.supervisor.statuses()
        if idle := [name for name in chosen if not statuses[name].pid]:
            raise StackError(f"{', '.join(idle)} does not run; 'just start' starts it")
        processes.send([statuses[name].pid for name in chosen], number)
        print(f"{SIGNALLED[number]}: {', '.join(chosen)}")

    def apply_scale(self, services: Collection[str]) -> None:
        if not self.supervisor.running():
            print(REMEMBERED)
            return
        before = self.supervisor.statuses()
        self.configure_supervisor()
        statuses = self.supervisor.statuses()
        stopped = [name for name, status in statuses.items() if status.state in STATES_ENDED]
        instances = self.programs.instances
        self.start_programs(
            [n for n in instances if n not in before or (n in stopped and instances[n][0].name in services)]
        )
        print("instances: " + ", ".join(f"{name} {count}" for name, count in self.state.instances().items()))

    def ps(self) -> None:
        self._require_running()
        programs = self.programs
        statuses = {name: s for name, s in self.supervisor.statuses().items() if name in programs.names}
        with ThreadPoolExecutor() as pool:  # each of them may take seconds to say nothing
            lacking = dict(zip(statuses, pool.map(self._lacking, statuses.values()), strict=True))
        width = max(14, *map(len, programs.names))
        row = f"{{:<{width}}} " + "{:<9} {:>8} {:>9} {:>6} {:>6}  {}"
        print(row.format("NAME", "STATE", "PID", "UPTIME", "PORT", "ADMIN", "READY"))
        for name in (name for name in programs.names if name in statuses):
            status, missing = statuses[name], lacking[name]
            running = status.state == "RUNNING"
            uptime = f"{status.uptime_s // 60}:{status.uptime_s % 60:02}" if running else "-"
            port, *others = programs.ports(name).values()
            admin_port = "-" if name in programs.servers else others[0]
            ready = f"no: {printable(missing)}" if missing else "yes" if running else "no"
            state = "frozen" if running and processes.is_frozen(status.pid) else status.state.lower()
            print(row.format(name, state, status.pid or "-", uptime, port, admin_port, ready))

    def _lacking(self, status: Status) -> str | None:
        if status.state == "RUNNING":
            return self.programs.lacking(status)
        return status.remark if status.state in ("BACKOFF", "FATAL", "EXITED") else None

    def logs(self, names: list[str], lines: int, follow: bool) -> None:
        chosen = self.programs.matching(names or self.programs.names)
        paths = [self.programs.log(name) for name in chosen]
        if not any(path.exists() for path in paths):
            raise StackError(
                f"there is no log in {self.settings.logs}; 'just up' starts Tandem. If it runs and someone removed the "
                "files, 'just down' comes first: until then the lines go nowhere"
            )
        logs.show(paths, lines=lines, follow=follow)

    def print_lines_naming(self, text: str, names: list[str]) -> bool:
        chosen = self.programs.matching(names or self.programs.names)
        return logs.show_lines_naming(text, [self.programs.log(name) for name in chosen])

    def psql(self, database: str, arguments: list[str]) -> None:
        self._require_running()
        databases = [*homes.databases(self.home), homes.SUPERUSER]
        if database not in databases:
            raise StackError(f"there is no database {database!r}; there are {', '.join(databases)}")
        url = database_url(
            database,
            database,
            host=HOST,
            ports=self.settings.postgres_ports(database),
            folder=self.settings.secrets,
            authority=self.settings.authority,
        )
        variables = {"PGCONNECT_TIMEOUT": str(CONNECT_S)}
        if self.settings.secure:
            variables["LD_PRELOAD"] = str(secure_libpq(self.settings.cache))
        program = str(binary("psql"))
        os.chdir(caller())
        os.execve(program, [program, *PSQL_OPTIONS, "-d", url, *arguments], child(variables))

    def ops(self, module: str, arguments: list[str]) -> None:
        self._require_running()
        command = [sys.executable, "-m", f"ops.{module}", *arguments]
        os.execve(sys.executable, command, child(self.programs.tools_environment(users.of_tool(module, arguments))))

    def run_tool(self, module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", f"ops.{module}", *arguments]
        variables = child(self.programs.tools_environment(users.of_tool(module, arguments)))
        return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)

    def fail_over(self, database: str) -> None:
        self._require_running()
        failover.fail_over(self, database)

    def rejoin(self, database: str) -> None:
        self._require_running()
        failover.rejoin(self, database)

    def _check_clusters(self) -> None:
        """Raises `StackError` when the databases were made with standbys, and are to have none now, or the reverse."""
        wrong = [path for path in homes.clusters(self.home) if (path.name == "postgres") == self.settings.has_standbys]
        if wrong:
            made, asked = ("0", "1") if self.settings.has_standbys else ("1", "0")
            raise StackError(
                f"the databases were made with STANDBYS={made} and are in {wrong[0]}; STANDBYS={asked} would begin "
                "with empty ones: choose another TANDEM_HOME, or 'just reset'"
            )

    def rotate_secrets(self) -> None:
        self._require_running()
        if self.settings.secure:
            self.programs.renew_certificates()
            for name in self.programs.pairs.ports:
                self.programs.pairs.member(name).configure()  # a standby has none but this to tell it
            print("secrets: new certificates; new connections get them within a second", flush=True)
        self.ops("secrets", ["rotate"])

    def make_certificate(self, user: str) -> None:
        if not self.settings.secure:
            raise StackError("this stack asks nobody for a certificate; it does with SECURE=1")
        files = Authority(self.settings.secrets).ensure(user, purpose="client")
        print(f"KAFKA_CERT_FILE={files.certificate}\nKAFKA_KEY_FILE={files.key}")

    def migrate(self, targets: list[str]) -> None:
        self._require_running()
        for target in targets:
            homes.store_password(self.home, target.partition("=")[0])
        self.ops("migrate", targets)

    def env(self, arguments: list[str]) -> None:
        self._require_running()
        settings = dict(setting.split("=", 1) for setting in takewhile(lambda argument: "=" in argument, arguments))
        user = settings.get("KAFKA_USERNAME", OPERATOR)
        os.execvpe("env", ["env", *arguments], child(self.programs.environment(user)))

    def locust(self, arguments: list[str]) -> None:
        self._require_running()
        target = f"{self.scheme}://{HOST}:{self.settings.order_api_port}"
        options = ["-f", str(ROOT / "locustfile.py"), "--class-picker", "--web-host", HOST, "--host", target]
        token_file = self.settings.auth / "load.token"
        write(token_file, self.token(*LOAD_TOKEN), 0o600)
        variables = {"TANDEM_TOKEN_FILE": str(token_file)}
        if self.settings.authority is not None:
            variables["TLS_CA_FILE"] = str(self.settings.authority)
        os.execve(sys.executable, [sys.executable, "-m", "locust", *options, *arguments], child(variables))

    def observe(self, ports: list[int]) -> None:
        self._require_running()
        console = f"{HOST}:{self.settings.console_admin_port}"
        targets = self.programs.targets_path.resolve()
        options = ["--authority", str(self.settings.authority)] if self.settings.authority else []
        observe.run(observe.Observers(self.home / "observe", ports, targets, console, options))

    def become(self, name: str) -> None:
        """Turn this process into a program of the stack; supervisord starts each one so."""
        try:
            processes.record(self.home, name, os.getpid())
        except OSError as error:  # a full disk; as a child of supervisord it is known all the same
            print(f"{name}: its pid could not be recorded: {error}", flush=True)
        server = self.programs.server(name)
        server.prepare()
        command = server.command()
        os.chdir(server.workplace)
        os.execve(command[0], command, server.environment())

    def _launch(self) -> None:
        self._stop_left_over()
        self.settings = self.requested
        if taken := self._taken_ports(self.programs.names):
            remedy = "stop those processes, or set other ports, in the environment or in .env"
            raise StackError("\n".join(["ports are taken:", *(f"  {line}" for line in taken), remedy]))
        if tight := list(tight_limits()):
            raise StackError("\n".join(tight))
        homes.check_brokers(self.home, self.settings.brokers or 1)
        self._check_clusters()
        homes.make_passwords(self.home)
        homes.check_passwords(self.home)
        self.state.started("native", self.settings)
        # supervisord prepares them too, but here one sees the progress of the jars.
        for name in self.programs.servers:
            if name not in self.programs.pairs.ports:  # a standby is prepared when its primary runs
                print(f"preparing {name}", flush=True)
                self.programs.server(name).prepare()
        self.supervisor.launch(self._configured())

    def _is_complete(self) -> bool:
        statuses, programs = self.supervisor.statuses(), self.programs
        running = all(name in statuses and statuses[name].state == "RUNNING" for name in programs.names)
        return running and not any(programs.server(name).unready() for name in programs.names)

    def _refuse_other_settings(self) -> None:
        if changed := self.state.changed(self.requested):
            raise StackError(f"Tandem is up without {', '.join(changed)}; 'just down' first")

    def _stop_all(self) -> None:
        try:
            if self.supervisor.running():
                names = list(self.supervisor.statuses())
                print(f"stopping {', '.join(names)}", flush=True)
                servers = self.programs.servers
                self.supervisor.stop([name for name in names if name not in servers])
                self.supervisor.stop([name for name in names if name in servers])
                self.supervisor.shutdown()
        except (StackError, Fault) as error:
            print(error, flush=True)  # what runs is ended without supervisord
        self._stop_left_over()
        self.state.stopped()

    def _stop_left_over(self) -> None:
        if left := processes.of_stack(self.home):
            print(f"stopping {len(left)} processes that an earlier run left", flush=True)
            if remaining := processes.stop(left):
                named = "; ".join(map(processes.describe, remaining))
                raise StackError(f"{len(remaining)} processes could not be ended: {named}; end them as their user")
        shutil.rmtree(self.home / processes.RECORDS, ignore_errors=True)

    def _require_running(self) -> None:
        if not self.supervisor.running():
            left = len(processes.of_stack(self.home))
            remains = f"; {left} processes of an earlier run go on, and 'just down' ends them" if left else ""
            raise StackError(f"Tandem is not up; 'just up' starts it{remains}")
        if not self.state.path.exists():
            raise StackError(f"{self.state.path} is missing, so the ports are unknown; 'just down' and 'just up' again")
