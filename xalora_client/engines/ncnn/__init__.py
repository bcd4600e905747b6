"""Upscaling with ncnn, on any machine, by models from PyPI or a .param/.bin pair of the user's."""
