"""Video clips upscaled frame by frame by many miners at once, resumable in the middle, in bounded memory."""
