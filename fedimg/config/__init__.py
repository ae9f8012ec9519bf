"""fedimg.toml as typed settings: a module for each subject; boto3 finds AWS credentials by itself.

Callers import everything from here. The package knows values alone; every package above imports it.
"""

from __future__ import annotations

from fedimg.config.buses import FEDMSG, FEDORA_MESSAGING, Announcing, Buses, BusName
from fedimg.config.catalogue import Catalogue
from fedimg.config.checks import LOGIN, Check, Checking, ShippedCheck
from fedimg.config.ec2 import EC2, AMIs
from fedimg.config.encryption import Encryption
from fedimg.config.errors import ConfigError, ConfigUnusableNow
from fedimg.config.instance_store import InstanceStore
from fedimg.config.instances import ArmMachine, Machine, Network, X86Machine
from fedimg.config.limits import Limits
from fedimg.config.reading import DEFAULT_PATH, PATH_VARIABLE, load
from fedimg.config.retention import Retention, Rule
from fedimg.config.section import Section
from fedimg.config.settings import Settings
from fedimg.config.share import Share
from fedimg.config.sources import CatchUp, Composes, Intake, Koji
from fedimg.config.web import Web
from fedimg.config.worker import Verify, Worker

__all__ = [
    "DEFAULT_PATH",
    "EC2",
    "FEDMSG",
    "FEDORA_MESSAGING",
    "LOGIN",
    "PATH_VARIABLE",
    "AMIs",
    "Announcing",
    "ArmMachine",
    "BusName",
    "Buses",
    "Catalogue",
    "CatchUp",
    "Check",
    "Checking",
    "Composes",
    "ConfigError",
    "ConfigUnusableNow",
    "Encryption",
    "InstanceStore",
    "Intake",
    "Koji",
    "Limits",
    "Machine",
    "Network",
    "Retention",
    "Rule",
    "Section",
    "Settings",
    "Share",
    "ShippedCheck",
    "Verify",
    "Web",
    "Worker",
    "X86Machine",
    "load",
]
