"""A fair version of Gradio's queue: a queue per kind of work, a place per session, a turn per client in each round.

Unread messages expire, and the work that writes them ends.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Hashable
from typing import Any, Final

from gradio.context import LocalContext
from gradio.route_utils import get_fn
from gradio.server_messages import ProcessCompletedMessage

from kfexplore.ui.clients import CLIENT, client_of, crowd, next_round

POLL_SECONDS: Final = 0.01
"""Seconds between checks of Gradio's queue for new events. Its own 0.001 takes 6 % of a core and slows the models."""
UNREAD_SECONDS: Final = 15.0
"""Seconds after which a session is given up if its oldest message is unread."""
MOST_SESSIONS: Final = 1500
"""Sessions with events that are not yet answered and read; beyond 2000, Gradio drops the oldest one's messages."""
MOST_OF_CLIENT: Final = 100
"""Such sessions per client."""
FULL: Final = "The server is busy: too many requests like this are waiting. Try again in a while."
FOLLOWED: Final = "Another request of this session is already waiting. Try again when it runs."


def is_abandoned() -> bool:
    """Whether the queue's event that runs in this context was given up; Gradio itself ends only generators."""
    event = _event()
    return event is not None and not event.alive


def client_here() -> Hashable:
    """The client of the request, or of the queue's event, that runs in this context; None: unknown."""
    return CLIENT.get() or getattr(_event(), "client", None)


def _event() -> Any:
    """The queue's event that runs in this context, or None."""
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    return blocks._queue.event_ids_to_events.get(event_id) if blocks and event_id else None


class FairQueue:
    """Replaces `push` of Gradio's queue, slows its polling, and gives up events that nobody reads.

    Args:
        queue: Queue of a page; its `push` is replaced.
        places: Events that may wait, per kind of work.
        clock: Time in seconds.
    """

    def __init__(self, queue: Any, places: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue, self._places, self._clock = queue, places, clock
        self._push, queue.push = queue.push, self.push
        queue.sleep_when_free, queue.progress_update_sleep_when_free = POLL_SECONDS, 1.0  # the page has no gr.Progress
        self._numbers = itertools.count()
        self._clients: dict[str, Hashable] = {}
        """Client of each session with events that are not done and read."""
        self._unread: dict[str, tuple[Any, float]] = {}
        """By session: its oldest unread message or events, and since when."""

    async def push(self, body: Any, request: Any, username: str | None) -> tuple[bool, Any, str]:
        """As Gradio's. If all places are taken, a new event gets the last one of the client that has most.

        One event per kind and session waits. A newer event of the page replaces it; a newer API call is refused.
        """
        queue, fn = self._queue, get_fn(self._queue.blocks, None, body)
        client = client_of(request.client and request.client.host, body.session_hash)
        async with queue.delete_lock:  # meanwhile no event starts or is removed elsewhere
            known = queue.event_queue_per_concurrency_id.get(fn.concurrency_id)
            waiting = known.queue if known else []
            older = next((event for event in waiting if event.session_hash == body.session_hash), None)
            its_sessions = sum(other == client for other in self._clients.values()) if client is not None else 0
            is_full = len(self._clients) >= MOST_SESSIONS or its_sessions >= MOST_OF_CLIENT
            if is_full and body.session_hash not in self._clients:
                return False, FULL, "queue_full"
            if older is not None and fn.api_visibility == "public":
                return False, FOLLOWED, "queue_full"
            loser = older
            if older is not None:
                place = older.place
            else:
                if len(waiting) >= self._places:
                    crowded = crowd(client, (event.client for event in waiting))
                    if crowded is None:
                        return False, FULL, "queue_full"
                    loser = [event for event in waiting if event.client == crowded][-1]
                at_work = [event for events in queue.active_jobs for event in events or ()]
                at_work = [event for event in at_work if event.concurrency_id == fn.concurrency_id]
                now = max((event.place[0] for event in at_work), default=0)
                taken = ((event.client, event.place[0]) for event in (*at_work, *waiting))
                place = next_round(client, now, taken), next(self._numbers)
            answer: tuple[bool, Any, str] = await self._push(body, request, username)
            if answer[0]:
                event = queue.event_ids_to_events[answer[1]]
                event.client, event.place = client, place
                queue.event_queue_per_concurrency_id[fn.concurrency_id].queue.sort(key=lambda event: event.place)
                self._clients[event.session_hash] = client
                if loser is not None:
                    self._end(loser, success=loser is older)
            return answer

    async def give_up_unread(self) -> None:
        """Forgets sessions that are done, and gives up those that nobody reads: their waiting and running work ends."""
        queue, now = self._queue, self._clock()
        sessions = {*queue.pending_event_ids_session, *queue.pending_messages_per_session}
        for session in sessions:
            events = queue.pending_event_ids_session.get(session)
            messages = queue.pending_messages_per_session.get(session)
            if messages is not None and messages.qsize():
                oldest = messages._queue[0]
            elif events and not any(event in queue.event_ids_to_events for event in events):
                oldest = events  # their last message is on its way, or was lost with a connection
            else:
                oldest = None
            known, since = self._unread.get(session, (None, now))
            self._unread[session] = oldest, since if oldest is known else now
            if (oldest is not None and now - self._unread[session][1] > UNREAD_SECONDS) or (not events and not oldest):
                await queue.clean_events(session_hash=session)
                queue.pending_messages_per_session.pop(session, None)
                queue.pending_event_ids_session.pop(session, None)
        for kept in (self._unread, self._clients):
            for session in [each for each in kept if each not in queue.pending_event_ids_session]:
                del kept[session]

    def _end(self, event: Any, success: bool) -> None:
        """Removes a waiting event from the queue, and answers it: no change if `success`, else refused."""
        self._queue.event_queue_per_concurrency_id[event.concurrency_id].queue.remove(event)
        del self._queue.event_ids_to_events[event._id]
        output = {"data": [{"__type__": "update"}] * len(event.fn.outputs)} if success else {"error": FULL}
        self._queue.send_message(event, ProcessCompletedMessage(output=output, success=success))
