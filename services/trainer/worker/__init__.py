"""The training process: one rank of the group that the trainer launches.

It lives from plan to plan of one stage. Rank 0 holds the connection to the trainer; nothing else of the stack
is known here.
"""
