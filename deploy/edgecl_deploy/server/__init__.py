"""The HTTP server of a device: Open Inference Protocol v2 with binary tensors (docs/serve.md).

`requests`, `enrolment`: what a body holds. `oip`: the protocol's documents. `queue`: what waits,
and the thread that runs it. `guard`: who may ask, and how much. `metrics`, `events`: what is seen
of it. `page`: what a browser shows of it. `service` answers a request, `app` has the paths,
`listening` the socket and the end. The extra `server` brings what it needs.
"""
