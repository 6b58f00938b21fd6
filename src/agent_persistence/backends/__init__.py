"""The checkpointers: one contract, four stores.

One module each: ``postgresql``, ``memory``, ``redis`` and ``dynamodb`` (extra ``dynamodb``).
"""
