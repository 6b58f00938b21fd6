"""Imports and exports conversations of the chat-completions API as JSON Lines.

importer = ConversationImporter(persistence, user_id="u-42")
async for line in import_lines(importer, file):        # whole conversations in each transaction; repeatable
    print(line.number, line.outcome or line.refusal)

async for conversation in export_conversations(persistence, ANY_USER, file.write):
    print(conversation.thread_id, conversation.messages)
"""

from agent_persistence.transfer.conversations.conversation import NAMESPACE, Conversation, Turn
from agent_persistence.transfer.conversations.exporting import ExportedConversation, export_conversations
from agent_persistence.transfer.conversations.importing import ConversationImporter, ImportedLine, Outcome, import_lines
from agent_persistence.transfer.conversations.listing import ListedThread, threads_by_age

__all__ = [
    "NAMESPACE",
    "Conversation",
    "ConversationImporter",
    "ExportedConversation",
    "ImportedLine",
    "ListedThread",
    "Outcome",
    "Turn",
    "export_conversations",
    "import_lines",
    "threads_by_age",
]
