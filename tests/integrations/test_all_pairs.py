"""What is written through one framework is read through every other."""

from __future__ import annotations

from typing import Any

import pytest
from integrations.conversations import SAID, Core, Program
from integrations.programs import PROGRAMS

from agent_persistence.persistence import Persistence


def name(program: type[Program]) -> str:
    return program.__name__


@pytest.mark.parametrize("reader", PROGRAMS, ids=name)
@pytest.mark.parametrize("writer", PROGRAMS, ids=name)
async def test_each_framework_reads_what_another_one_wrote_and_continues_it(
    persistence: Persistence, new_ids: Any, user_id: str, writer: type[Program], reader: type[Program]
) -> None:
    where = persistence, new_ids.thread(), user_id
    one, other = writer(*where), reader(*where)

    await one.write(writer.CONVERSATION)
    assert await other.read() == SAID
    await other.write(reader.MORE)
    await one.write(writer.CONVERSATION[:1] if writer is Core else writer.MORE)

    said = [*SAID, ("user", "text", "More?")]
    assert (await one.read())[: len(said)] == (await other.read())[: len(said)] == said


@pytest.mark.parametrize("writer", PROGRAMS, ids=name)
async def test_an_edit_and_a_deletion_in_the_core_show_in_all(
    persistence: Persistence, new_ids: Any, user_id: str, writer: type[Program]
) -> None:
    thread_id = new_ids.thread()
    await writer(persistence, thread_id, user_id).write(writer.CONVERSATION)
    page = await persistence.messages.page(thread_id, user_id=user_id)
    [edited] = [message for message in page if message.text == "Only in Oslo."]
    new = {"role": "assistant", "content": "Only in Bergen."}

    await persistence.messages.update(thread_id, edited.message_id, message=new, user_id=user_id)
    await persistence.messages.delete(thread_id, page.items[-1].message_id, user_id=user_id)

    said = [(*one[:-1], "Only in Bergen.") if one[-1] == "Only in Oslo." else one for one in SAID[:-1]]
    for reader in PROGRAMS:
        assert await reader(persistence, thread_id, user_id).read() == said


async def test_a_deleted_thread_is_gone_in_all(persistence: Persistence, new_ids: Any, user_id: str) -> None:
    thread_id = new_ids.thread()
    programs = [program(persistence, thread_id, user_id) for program in PROGRAMS]
    await programs[0].write(Core.CONVERSATION)

    await persistence.threads.delete(thread_id, user_id=user_id)

    assert [await program.read() for program in programs] == [[] for _ in programs]
