"""Forms: a framework's items as messages that every other framework reads."""
