"""``python -m agent_persistence.cli``, where the script is not on the path."""

from agent_persistence.cli import main

main()
