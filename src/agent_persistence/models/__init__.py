"""The mapped classes: mixins for a host's ``Base``, or ready-made by ``build_models``."""

from agent_persistence.models.base import NAMING_CONVENTION, HasIdTypes, thread_id_type, user_id_type
from agent_persistence.models.factory import Models, build_models, config_table
from agent_persistence.models.json_type import ExactJSON
from agent_persistence.models.message import MessageMixin
from agent_persistence.models.roles import RoleType
from agent_persistence.models.state import StateMixin
from agent_persistence.models.thread import ThreadMixin
from agent_persistence.records import MessageRole

__all__ = [
    "NAMING_CONVENTION",
    "ExactJSON",
    "HasIdTypes",
    "MessageMixin",
    "MessageRole",
    "Models",
    "RoleType",
    "StateMixin",
    "ThreadMixin",
    "build_models",
    "config_table",
    "thread_id_type",
    "user_id_type",
]
