"""Programs in the kernel (C), and what compiles, loads, attaches and reads them.

All of it is optional: whoever imports from here without bcc, headers or privilege is told by
`SystemRefused` what is missing, and everything else works.
"""
