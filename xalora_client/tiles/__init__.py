"""A large image upscaled in tiles by many miners at once, blended without seams, in bounded memory."""
