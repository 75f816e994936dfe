"""The pictures: each function takes the numbers that are drawn and returns a matplotlib figure.

Nothing else in the library imports matplotlib. `style.save` writes a figure as PNG and PDF.
"""
