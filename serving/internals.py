"""The parts of waitress that are used beyond its documentation, and what breaks if they change.

pyproject.toml limits its version; tests/test_waitress.py runs the oldest and newest allowed ones.
These names have no types: the available stubs describe them wrongly.
"""

# wasyncore: loop, dispatcher, close_all   The loop and its connections: nothing starts.
# HTTPRequestParser: received,             Parsing requests: all are rejected, or ambiguous ones
#   which calls parse_header, and its      are accepted.
#   attributes; the two errors of that
#   adj.max_request_body_size, read        Large bodies with the master key: each is 413.
#     at each piece of a body
#   body_rcv.control_line, .trailer        Limits for chunks: each chunked request fails.
# ChunkedReceiver, FixedStreamReceiver,    Bodies: none is read.
#   OverflowableBuffer; adj.inbuf_overflow
# WSGITask, ErrorTask: execute, write,     Responses: none is sent, or the last one on a connection
#   set_close_on_finish,                   doesn't say that it is.
#   build_response_header, ...
# What they use of a channel: write_soon,  Responses: each request is a 500.
#   check_client_disconnected; and of its
#   server: application, adj,
#   server_name, effective_port
# WSGITask: content_length, version,       Responses of unknown length: each closes its connection,
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
