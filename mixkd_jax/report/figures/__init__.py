"""Figures of a report: at the width of a paper's column, colour-blind-safe, legible in grey.

Every function returns a `matplotlib.figure.Figure` made without pyplot, so nothing global is left
behind.
"""
