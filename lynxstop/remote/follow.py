"""Feed the events of a chat stream to a session, however the server shows thinking."""

from __future__ import annotations

from lynxstop.remote.delta import Delta
from lynxstop.remote.session import StreamSession, TruncationPoint


def lacks_tokens(session: StreamSession, delta: Delta) -> bool:
    """Whether an event has thinking without its tokens, so that no decision is possible any more."""
    return bool(delta.thinking or (delta.content and session.inside)) and not delta.tokens


def follow(session: StreamSession, delta: Delta) -> TruncationPoint | None:
    """Read the tokens of one event.

    A server with a reasoning parser puts thinking into a field of its own, with or without the delimiters
    among the tokens; a server without one shows the delimiters in the text. Delimiters count wherever they
    are shown, and a change of field counts as a delimiter.

    Returns
    -------
    TruncationPoint or None
        Where an exit truncates; tokens of the event after it were not read.
    """
    if delta.thinking and not session.inside and (truncation := session.mark(opens=True)):
        return truncation
    left = len(delta.thinking.encode(errors="surrogatepass"))
    closing = session.config.closing
    for token in delta.tokens:
        closes = delta.content and left <= 0 and session.inside and session.opened_by_field
        # The delimiter itself closes the block when it is read.
        closes = closes and token.text.strip() not in closing
        if closes and (truncation := session.mark(opens=False)):
            return truncation
        left -= len(token.text)
        if truncation := session.read(token):
            return truncation
    return None
