"""`xalora demo`: the command, its photographs and its contact sheet."""
