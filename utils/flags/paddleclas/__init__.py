"""PaddleClas's configurations as flags: `-c FILE.yaml -o KEY=VALUE` of every script.

`document` reads a file and its overrides and keeps the line of every key; `section` hands out values, checked, and
remembers which keys nobody asked for. A module for each part of a configuration turns it into flags; `translate` puts
them together. Nothing here knows what a flag does: the flags that come out are parsed like typed ones.
"""
