"""The HTTP routes and websocket messages of the sidebar and its dialogs."""
