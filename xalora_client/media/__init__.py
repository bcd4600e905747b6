"""Bytes to numpy and back: images, video, how a local image reaches a miner, how a result comes home."""
