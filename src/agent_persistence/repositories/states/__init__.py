"""The table ``states``, and streamed states."""
