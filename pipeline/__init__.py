"""From a committed outbox row to the event store: publish -> dispatch -> accumulate -> seal -> load -> write -> ack.

Read the modules in the order of the flow: dispatch, accumulate, window (seal, lease), load, write, ack, delivery
(load to ack), recover; actors puts them into dramatiq.
"""
