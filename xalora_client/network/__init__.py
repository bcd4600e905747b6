"""The four endpoints of the sequencer, and what their answers mean."""
