"""A session that follows the events of a chat stream, whichever way the server shows thinking."""

from __future__ import annotations

from lynxstop.remote.delta import Delta
from lynxstop.remote.session import StreamSession, TruncationPoint


def lacks_tokens(session: StreamSession, delta: Delta) -> bool:
    """Whether an event shows thinking without its tokens, so that nothing can be decided any more."""
    return bool(delta.thinking or (delta.content and session.inside)) and not delta.tokens


def follow(session: StreamSession, delta: Delta) -> TruncationPoint | None:
    """Read the tokens of one event.

    A server that parses thinking tells by the field of a text where it belongs, and may or may not show the
    delimiters among the tokens; one that does not parse shows them in the text. Both are understood: the
    delimiters count where they are seen, and a change of field counts as one.

    Returns
    -------
    Cut or None
        Where an exit cuts; tokens of the event that lie behind it were not read.
    """
    if delta.thinking and not session.inside and (truncation := session.mark(opens=True)):
        return truncation
    left = len(delta.thinking.encode())
    closing = session.config.closing
    for token in delta.tokens:
        closes = delta.content and left <= 0 and session.inside and session.opened_by_field
        # A delimiter that is shown closes the block by itself.
        closes = closes and token.text.strip() not in closing
        if closes and (truncation := session.mark(opens=False)):
            return truncation
        left -= len(token.text)
        if truncation := session.read(token):
            return truncation
    return None
