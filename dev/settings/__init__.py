"""The settings of a stack, and the environment of its processes.

Environment variables are all that configures a process of Tandem. All of it is checked here, before anything starts:
the stack's own settings, and those that its processes will read.
"""

from dev.settings.names import OWN_SETTINGS, compose_settings, dotenv, unknown_settings
from dev.settings.ports import free_ports
from dev.settings.processes import (
    PROCESS_SETTINGS,
    PROJECT,
    certificate_settings,
    check_processes,
    environment,
    new_passwords,
    own_auth,
)
from dev.settings.services import CONSOLE, DATABASES, HOST, ROLES, ROOT, SERVICES, SHARED_ROLES, Service
from dev.settings.stack import BROKERS, KAFKA_PORTS, PORT_SETTINGS, Kind, Settings, Standbys
