"""The checkpointers: one contract, four places to keep states.

One module each: ``postgresql``, ``memory``, ``redis`` and ``dynamodb`` (extra ``dynamodb``).
"""
