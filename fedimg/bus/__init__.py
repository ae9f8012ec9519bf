"""The message buses: messages and their signatures, the outbox's relay, and publishers.

The package sends what the outbox holds to fedmsg and fedora-messaging and says which messages are
believed. What a message of Koji means is `intake`'s decision; what a job announces is
`jobs.recorder`'s.
"""
