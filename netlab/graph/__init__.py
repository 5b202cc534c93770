"""Drawings of a topology: in a terminal, as SVG, Mermaid and DOT. Pure: text out of data.

`picture` says what is to be seen (many alike become one), `layout` where; the rest draw it.
"""
