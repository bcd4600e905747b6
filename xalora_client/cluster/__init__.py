"""The user's own machines as a network: a Ray cluster behind the four consumer endpoints. Linux only.

``supervisor`` runs Ray and the front on the head, and Ray on a machine that joins. ``front`` answers
consumers, ``dispatcher`` hands tasks to ``worker`` actors, of which each GPU has one; ``rules`` says what a
task goes through.
"""
