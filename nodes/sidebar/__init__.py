"""What the sidebar and the dialogs ask for, and who may ask."""
