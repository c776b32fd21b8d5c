"""Replies to prompts.

settings.py  what is asked of a generator, and what it gives
decoding.py  replies of a model in memory, in batches
memory.py    how many replies fit into memory at once
local.py     a model in this process
api.py       requests to a server, with patience
server.py    a model behind a server that speaks OpenAI's protocol
backends.py  the choice between the two
"""

from safelox.evaluation.generation.backends import Backend, find_backend, open_generator
from safelox.evaluation.generation.decoding import BATCH_SIZE, replies
from safelox.evaluation.generation.settings import GenerationSettings, Generator, Reply

__all__ = [
    "BATCH_SIZE",
    "Backend",
    "GenerationSettings",
    "Generator",
    "Reply",
    "find_backend",
    "open_generator",
    "replies",
]
