"""``python -m agent_persistence.cli``, where the script is not on PATH."""

from agent_persistence.cli import main

main()
