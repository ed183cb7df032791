"""Conversations: messages in, the text of answers out, over any engine."""
