"""`xalora demo`: the devnet, photographs upscaled by it, and a contact sheet of them."""
