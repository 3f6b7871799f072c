"""Publishing: an event becomes a row of an outbox table in the caller's own transaction, and nothing else happens.

`from towpath import Event, publish, publish_many`; outbox tables of your own: `towpath.outbox.models`.
"""
