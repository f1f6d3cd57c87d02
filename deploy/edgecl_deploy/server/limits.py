"""The limits of the server (docs/serve.md, "Limits"), checked before memory is taken."""

MAX_BODY = 32 * 2**20  # bytes of one body, and of one that was compressed
MAX_HELD = 256 * 2**20  # bytes of all bodies that are held at once
MAX_HEAD = 16 * 1024  # bytes of the first line and the headers of a request
MAX_IMAGES = 32  # of one request
MAX_TOP = 1000  # classes per image that a request may ask for
MAX_ID = 200  # characters of a request's id
MAX_OUTPUTS = 16  # that a request may ask for
MAX_CONNECTIONS = 256
MAX_LISTENERS = 8  # of events
MAX_SHOWN = 20  # images of one enrolment over HTTP
MAX_ENROLMENTS = 4  # in work: one runs, others wait
MAX_LABELS = 100  # classes that have a counter of their own
MAX_TIMEOUT = 3600.0  # seconds that a request may wait
QUEUE = 64  # images that are prepared, wait or run
BATCH = 8  # images of one run, unless one request has more
HEAD_SECONDS = 10.0  # from a connection, or an answer, to the end of the next head
BODY_SECONDS = 10.0  # from the headers of a request to the end of its body
DEADLINE = 30.0  # seconds from the end of a body to the begin of the run
DRAIN_SECONDS = 10.0  # that requests have to finish when the server ends
CLOSE_SECONDS = 2  # that connections have to close after that
RETRY_SECONDS = 1  # that a client should wait after a 503
LEAST_TOKEN = 16  # characters
