"""What is relied on of waitress beyond its documentation, and what breaks if it moves.

pyproject.toml bounds its version; tests/test_waitress.py runs the oldest and the newest allowed.
These names have no types: the stubs that there are describe them wrongly.
"""

# wasyncore: loop, dispatcher, close_all   The loop and its connections: nothing starts.
# HTTPRequestParser: received,             A request and how far it is read: none is understood, or
#   which calls parse_header, and its      one that is ambiguous is let through.
#   attributes; the two errors of that
#   adj.max_request_body_size, read        Large bodies for the master key: each is 413.
#     at each piece of a body
#   body_rcv.control_line, .trailer        The end of endless chunks: each chunked request fails.
# ChunkedReceiver, FixedStreamReceiver,    Bodies: none is read.
#   OverflowableBuffer; adj.inbuf_overflow
# WSGITask, ErrorTask: execute, write,     Answers: none is sent, or the last one of a connection
#   set_close_on_finish,                   does not say that it is.
#   build_response_header, ...
# What they ask of a channel: write_soon,  Answers: each request is a 500.
#   check_client_disconnected; and of its
#   server: application, adj,
#   server_name, effective_port
# WSGITask: content_length, version,       Answers of unknown length: each closes its connection,
#   chunked_response, close_on_finish      or a HEAD gets a body.

from typing import Any

from waitress import adjustments, buffers, channel, parser, receiver, task, utilities, wasyncore

loop: Any = wasyncore.loop
close_all: Any = wasyncore.close_all
Dispatcher: Any = wasyncore.dispatcher
HTTPRequestParser: Any = parser.HTTPRequestParser
ParsingError: Any = parser.ParsingError
TransferEncodingNotImplemented: Any = parser.TransferEncodingNotImplemented
ChunkedReceiver: Any = receiver.ChunkedReceiver
FixedStreamReceiver: Any = receiver.FixedStreamReceiver
OverflowableBuffer: Any = buffers.OverflowableBuffer
BadRequest: Any = utilities.BadRequest
build_http_date: Any = utilities.build_http_date
InternalServerError: Any = utilities.InternalServerError
ErrorTask: Any = task.ErrorTask
WSGITask: Any = task.WSGITask
ClientDisconnected: Any = channel.ClientDisconnected
Adjustments: Any = adjustments.Adjustments
