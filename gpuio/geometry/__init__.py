"""Arithmetic of frames, tiles and bytes: which frames, cut how, read from where. No file is opened here."""
