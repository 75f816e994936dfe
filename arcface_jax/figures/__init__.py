"""The pictures: each function takes the numbers to draw and returns a matplotlib figure.

Nothing else in the library imports matplotlib. `style.save` writes a figure as PNG and PDF.
"""
